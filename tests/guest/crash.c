/* Dies of a bad store three calls deep, leaving a core dump: memory of every kind at known addresses, and one part that must stay out. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define PAGE 4096UL
#define AT(n) ((void *)(0x300000000000UL + (n) * 0x100000UL))

static void *map(int n, int pages, int flags, int fd)
{
    int prot = fd < 0 ? PROT_READ | PROT_WRITE : PROT_READ;
    return mmap(AT(n), pages * PAGE, prot, flags | MAP_FIXED | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);
}

__attribute__((noinline)) void third(volatile int *p)
{
    *p = 7;
    __asm__ volatile("" ::: "memory");
}

__attribute__((noinline)) void second(volatile int *p)
{
    third(p);
    __asm__ volatile("" ::: "memory");
}

__attribute__((noinline)) void first(volatile int *p)
{
    second(p);
    __asm__ volatile("" ::: "memory");
}

int main(int argc, char **argv)
{
    long long limit = argc > 1 ? atoll(argv[1]) : -1;
    const char *filter = argc > 2 ? argv[2] : "0x33";
    struct rlimit core = {limit, RLIM_INFINITY};
    setrlimit(RLIMIT_CORE, &core);
    int fd = open("/proc/self/coredump_filter", O_RDWR);
    char now[32] = "";
    read(fd, now, sizeof now - 1);
    printf("filter was %s", now);
    printf("write %zd\n", write(fd, filter, strlen(filter)));
    memset(now, 0, sizeof now);
    pread(fd, now, sizeof now - 1, 0);
    printf("filter is %s", now);
    fflush(stdout);
    close(fd);

    unsigned *touched = map(0, 8, MAP_PRIVATE, -1);
    touched[0] = 0xfeedface;
    touched[PAGE / 4 * 5] = 0x12345678;
    mprotect(touched + PAGE, PAGE, PROT_NONE);
    unsigned *hidden = map(1, 4, MAP_PRIVATE, -1);
    hidden[0] = 0xdeaddead;
    madvise(hidden, 4 * PAGE, MADV_DONTDUMP);
    map(2, 4, MAP_PRIVATE, -1);
    unsigned *shared = map(3, 4, MAP_SHARED, -1);
    shared[1] = 0x5ead5ead;
    map(4, 1, MAP_PRIVATE, open("plain", O_RDONLY));
    map(5, 2, MAP_PRIVATE, open("/proc/self/exe", O_RDONLY));
    map(6, 2, MAP_SHARED, open("plain", O_RDONLY));
    first((int *)8);
    return 0;
}
