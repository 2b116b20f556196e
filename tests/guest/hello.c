/* The C library's start-up, malloc of every size class, realloc, thread-local storage, floating point and the environment.
 * Built static, static-pie and dynamic. */
#include "check.h"

static __thread int counter = 41;
static char bss[3 * 1024 * 1024];
static int data[1024] = {1, 2, 3};

static unsigned long sum(const unsigned char *p, size_t len) {
    unsigned long total = 14695981039346656037UL;
    for (size_t i = 0; i < len; i++)
        total = (total ^ p[i]) * 1099511628211UL;
    return total;
}

int main(int argc, char **argv) {
    counter++;
    printf("hello from %d arguments, tls %d, pi %.6f\n", argc - 1, counter, 3.14159265358979);
    for (int i = 1; i < argc; i++)
        printf("argument %d: [%s]\n", i, argv[i]);
    const char *value = getenv("GUEST_VALUE");
    printf("GUEST_VALUE: %s\n", value ? value : "(unset)");
    unsigned long total = 0;
    for (size_t size = 1; size <= 64UL << 20; size *= 4) {
        unsigned char *p = malloc(size);
        if (!p)
            return 1;
        memset(p, (int)(size % 251), size);
        p = realloc(p, size * 2 + 1);
        memset(p + size, 7, size + 1);
        total ^= sum(p, size * 2 + 1);
        free(p);
    }
    void *many[512];
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 512; i++) {
            many[i] = malloc((size_t)(i * 97 + round));
            memset(many[i], i, (size_t)(i * 97 + round));
        }
        for (int i = 0; i < 512; i++) {
            total ^= sum(many[i], (size_t)(i * 97 + round));
            free(many[i]);
        }
    }
    for (size_t i = 0; i < sizeof bss; i++)
        total += (unsigned long)bss[i];
    memset(bss, 5, sizeof bss);
    data[1000] = 9;
    printf("checksum %016lx bss %016lx data %016lx\n", total, sum((unsigned char *)bss, sizeof bss), sum((unsigned char *)data, sizeof data));
    char *zeroes = calloc(1, 1 << 20);
    printf("calloc %016lx\n", sum((unsigned char *)zeroes, 1 << 20));
    return argc > 1 ? atoi(argv[1]) : 0;
}
