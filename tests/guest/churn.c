/* A random walk through the memory calls: churn SEED STEPS prints what each call answered and, now and then (every EVERY steps with a
 * third argument), the regions and what every page of the arena holds. The walk depends on the seed alone, so two kernels that agree
 * print the same. */
#include "check.h"

#define PAGES 192UL
#define FILE_PAGES 40UL
#define RW (PROT_READ | PROT_WRITE)

static uint64_t state;

static unsigned long pick(unsigned long bound) {
    state += 0x9e3779b97f4a7c15UL;
    uint64_t z = state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9UL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebUL;
    return (unsigned long)((z ^ (z >> 31)) % bound);
}

static const int prots[] = {PROT_NONE, PROT_READ, RW, RW, RW, PROT_READ | PROT_EXEC, RW | PROT_EXEC};

static int some_prot(void) {
    return prots[pick(sizeof prots / sizeof *prots)];
}

static void show_result(int step, const char *what, unsigned long page, unsigned long pages, long result) {
    printf("%d %s %lu+%lu ", step, what, page, pages);
    if (result == -1)
        printf("%s\n", error_name(errno));
    else if (in_arena((void *)result))
        printf("arena+%lu\n", (unsigned long)(result - (long)arena) / PAGE);
    else
        printf("%ld\n", result);
}

/* One line: for every page of the arena the fault that a read meets, or a sum of what it holds. */
static void show_contents(void) {
    uint64_t hash = 14695981039346656037UL;
    for (unsigned long i = 0; i < PAGES; i++) {
        volatile unsigned value = 0;
        TRY(for (unsigned j = 0; j < PAGE; j += 64) value = value * 31 + *(volatile unsigned char *)(at(i) + j));
        unsigned what = fault.signal ? (unsigned)(fault.signal * 16 + fault.code) : value;
        hash = (hash ^ what) * 1099511628211UL;
        if (fault.signal)
            putchar(fault.signal == SIGBUS ? 'B' : fault.code == SEGV_MAPERR ? '.' : '-');
        else
            printf("%x", (value ^ value >> 4 ^ value >> 8) & 15);
    }
    printf("\ncontents %016lx\n", hash);
}

static void store(int step, unsigned long page, unsigned long pages) {
    unsigned long done = 0;
    int value = (int)pick(255) + 1;
    for (unsigned long i = 0; i < pages; i++) {
        char *p = at(page + i) + pick(64) * 64;
        TRY(*(volatile char *)p = (char)value);
        done = done * 3 + (fault.signal ? (unsigned long)fault.code + (fault.signal == SIGBUS) : 0);
    }
    show_result(step, "store", page, pages, (long)(done & 0xffff));
}

static void map(int step, int fd, unsigned long page, unsigned long pages) {
    int flags = pick(8) == 0 ? MAP_FIXED_NOREPLACE : MAP_FIXED;
    int prot = some_prot();
    switch (pick(5)) {
    case 0:
        flags |= MAP_SHARED | MAP_ANONYMOUS;
        break;
    case 1:
    case 2:
        flags |= MAP_PRIVATE | MAP_ANONYMOUS;
        break;
    case 3:
        show_result(step, "map shared file", page, pages, (long)mmap(at(page), pages * PAGE, prot, flags | MAP_SHARED, fd, (long)(pick(FILE_PAGES) * PAGE)));
        return;
    default:
        show_result(step, "map private file", page, pages, (long)mmap(at(page), pages * PAGE, prot, flags | MAP_PRIVATE, fd, (long)(pick(FILE_PAGES) * PAGE)));
        return;
    }
    show_result(step, flags & MAP_SHARED ? "map shared" : "map private", page, pages, (long)mmap(at(page), pages * PAGE, prot, flags, -1, 0));
}

static void remap(int step, unsigned long page, unsigned long pages) {
    unsigned long to = pick(PAGES - 32), length = pick(3) ? pages : pick(16) + 1;
    printf("to %lu+%lu: ", to, length);
    int flags = MREMAP_MAYMOVE | MREMAP_FIXED | (pick(6) == 0 ? MREMAP_DONTUNMAP : 0);
    if (pick(4) == 0)
        show_result(step, "resize", page, pages, (long)mremap(at(page), pages * PAGE, length * PAGE, 0));
    else
        show_result(step, flags & MREMAP_DONTUNMAP ? "move and leave" : "move", page, pages,
                    (long)mremap(at(page), pages * PAGE, length * PAGE, flags, at(to)));
}

static void change_file(int step, int fd, unsigned long pages) {
    static char buffer[3 * 4096];
    unsigned long size = pick(FILE_PAGES * PAGE);
    switch (pick(3)) {
    case 0:
        show_result(step, "truncate", size / PAGE, size % PAGE, ftruncate(fd, (long)size));
        break;
    case 1:
        memset(buffer, (int)pick(256), sizeof buffer);
        show_result(step, "write", size / PAGE, pages, pwrite(fd, buffer, pick(sizeof buffer) + 1, (long)size));
        break;
    default: {
        long got = pread(fd, buffer, sizeof buffer, (long)size);
        unsigned sum = 0;
        for (long i = 0; i < got; i++)
            sum = sum * 33 + (unsigned char)buffer[i];
        printf("%d read %ld %x\n", step, got, sum);
    }
    }
}

static void one(int step, int fd) {
    unsigned long page = pick(PAGES - 24), pages = pick(20) + 1;
    switch (pick(16)) {
    case 0:
    case 1:
    case 2:
    case 3:
        map(step, fd, page, pages);
        break;
    case 4:
        show_result(step, "unmap", page, pages, munmap(at(page), pages * PAGE));
        break;
    case 5:
    case 6:
    case 7:
        show_result(step, "protect", page, pages, mprotect(at(page), pages * PAGE, some_prot()));
        break;
    case 8:
    case 9:
        remap(step, page, pages > 8 ? pages - 8 : pages);
        break;
    case 10:
        show_result(step, "drop", page, pages, madvise(at(page), pages * PAGE, MADV_DONTNEED));
        break;
    case 11:
        change_file(step, fd, pages);
        break;
    case 12:
        show_result(step, "advise", page, pages, madvise(at(page), pages * PAGE, (int)pick(3)));
        break;
    default:
        store(step, page, pages);
    }
}

int main(int argc, char **argv) {
    state = argc > 1 ? strtoul(argv[1], NULL, 0) : 1;
    int steps = argc > 2 ? atoi(argv[2]) : 1000, every = argc > 3 ? atoi(argv[3]) : 100;
    static char output[1 << 16];
    setvbuf(stdout, output, _IOFBF, sizeof output);
    int fd = make_file("churn.data", FILE_PAGES * PAGE);
    unlink("churn.data");
    arena_open();
    arena_clear();
    faults_catch(0);
    for (int step = 0; step < steps; step++) {
        one(step, fd);
        if (step % every == every - 1) {
            show_arena("regions");
            show_contents();
        }
    }
    return 0;
}
