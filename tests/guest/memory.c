/* More memory than a small machine has: anonymous memory that is touched, or a file that is read and mapped. */
#include "check.h"

static unsigned long sum_mapped(const char *name) {
    int fd = open(name, O_RDONLY);
    struct stat stat;
    fstat(fd, &stat);
    const unsigned char *p = mmap(NULL, (size_t)stat.st_size, PROT_READ, MAP_SHARED, fd, 0);
    unsigned long sum = 0;
    for (long n = 0; n < stat.st_size; n += 512)
        sum = sum * 31 + p[n];
    close(fd);
    return sum;
}

static unsigned long sum_read(const char *name) {
    int fd = open(name, O_RDONLY);
    static unsigned char buffer[1 << 16];
    unsigned long sum = 0;
    long count;
    while ((count = read(fd, buffer, sizeof buffer)) > 0)
        for (long n = 0; n < count; n += 512)
            sum = sum * 31 + buffer[n];
    close(fd);
    return sum;
}

/* A file of `mib` MiB written through a shared mapping, so that every page is dirty. */
static void write_mapped(const char *name, unsigned long mib) {
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (ftruncate(fd, (long)(mib << 20)))
        perror("ftruncate");
    unsigned char *p = mmap(NULL, mib << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    for (unsigned long n = 0; n < mib << 20; n += 512)
        p[n] = (unsigned char)(n >> 9) ^ (unsigned char)(n >> 17);
    munmap(p, mib << 20);
    close(fd);
}

int main(int count, char **args) {
    unsigned long mib = count > 2 ? strtoul(args[2], NULL, 10) : 0;
    if (count > 2 && strcmp(args[1], "touch") == 0) {
        char *p = mmap(NULL, mib << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        for (unsigned long n = 0; n < mib << 20; n += PAGE)
            p[n] = 1;
    } else if (count > 2 && strcmp(args[1], "populate") == 0) {
        mmap(NULL, mib << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_POPULATE, -1, 0);
    } else if (count > 2 && strcmp(args[1], "read") == 0) {
        int zero = open("/dev/zero", O_RDONLY);
        char *p = mmap(NULL, mib << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        for (unsigned long n = 0; n < mib; n++)
            if (read(zero, p + (n << 20), 1 << 20) != 1 << 20)
                perror("read");
    } else if (count > 3 && strcmp(args[1], "file") == 0) {
        write_mapped(args[3], mib);
        unsigned long mapped = sum_mapped(args[3]), read = sum_read(args[3]);
        printf("%lx %s\n", mapped, mapped == read ? "equal" : "different");
        return 0;
    }
    puts("there was enough");
    return 0;
}
