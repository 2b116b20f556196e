/* Locking, sealing and guarding memory, and remap_file_pages: results, what is counted as locked, and what a page does afterwards. */
#include "check.h"

#define GUARD_INSTALL 102
#define GUARD_REMOVE 103

static long locked_kib(void) {
    FILE *status = fopen("/proc/self/status", "r");
    char line[256];
    long kib = -1;
    while (fgets(line, sizeof line, status))
        if (sscanf(line, "VmLck: %ld", &kib) == 1)
            break;
    fclose(status);
    return kib;
}

static void show_locked(long before) {
    printf("locked: %ld kB\n", locked_kib() - before);
}

static long mseal_(void *p, size_t len) {
    return syscall(462, p, len, 0);
}

static void locks(void) {
    long before = locked_kib();
    arena_clear();
    mmap(at(0), 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    munmap(at(5), PAGE);
    CALL(mlock(at(1) + 100, PAGE));
    show_locked(before);
    CALL(mlock(at(0), 8 * PAGE));
    show_locked(before);
    show_arena("locked up to a hole");
    CALL(mlock2(at(6), PAGE, MLOCK_ONFAULT));
    CALL(mlock2(at(6), PAGE, 2));
    CALL(madvise(at(1), PAGE, MADV_DONTNEED));
    CALL(madvise(at(1), PAGE, MADV_DONTNEED_LOCKED));
    CALL(munlock(at(0), 2 * PAGE));
    show_locked(before);
    CALL(munlock(at(4), 3 * PAGE));
    CALL(mlockall(0));
    CALL(mlockall(MCL_ONFAULT));
    CALL(mlockall(MCL_FUTURE | MCL_ONFAULT));
    MAP(mmap(at(20), 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
    show_locked(before);
    CALL(munmap(at(20), PAGE));
    CALL(munlockall());
    printf("all unlocked: %ld kB\n", locked_kib());
}

static void limits(void) {
    struct rlimit old, low = {4 * PAGE, RLIM_INFINITY};
    getrlimit(RLIMIT_MEMLOCK, &old);
    low.rlim_max = old.rlim_max;
    CALL(setrlimit(RLIMIT_MEMLOCK, &low));
    arena_clear();
    mmap(at(0), 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    CALL(mlock(at(0), 4 * PAGE));
    CALL(mlock(at(0), 5 * PAGE));
    CALL(munlockall());
    setrlimit(RLIMIT_MEMLOCK, &old);
}

static void guards(void) {
    arena_clear();
    mmap(at(0), 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    memset(at(0), 1, 8 * PAGE);
    CALL(madvise(at(2), 2 * PAGE, GUARD_INSTALL));
    peek("guard", at(2));
    CALL(madvise(at(0), 8 * PAGE, MADV_DONTNEED));
    peek("guard after DONTNEED", at(3));
    peek("beside it", at(1));
    CALL(madvise(at(0), 8 * PAGE, MADV_POPULATE_READ));
    CALL(mlock(at(0), 8 * PAGE));
    CALL(madvise(at(0), PAGE, GUARD_INSTALL));
    CALL(madvise(at(0), 8 * PAGE, GUARD_REMOVE));
    CALL(munlock(at(0), 8 * PAGE));
    peek("no guard", at(2));
    show_arena("one mapping");
}

static void seals(void) {
    static const int advice[] = {0, 1, 2, 3, 4, 8, 9, 10, 11, 16, 17, 18, 19, 20, 21, 22, 24, 102, 103};
    arena_clear();
    char *p = mmap(at(0), 8 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    CALL(mseal_(at(1), 2 * PAGE));
    CALL(mseal_(at(1) + 1, PAGE));
    CALL(mseal_(at(6), 4 * PAGE));
    CALL(syscall(462, p, PAGE, 1));
    for (size_t n = 0; n < sizeof advice / sizeof *advice; n++) {
        printf("%d: ", advice[n]);
        CALL(madvise(at(1), PAGE, advice[n]));
    }
    CALL(munmap(at(0), 2 * PAGE));
    CALL(mprotect(at(1), PAGE, PROT_READ | PROT_WRITE));
    MAP(mremap(at(1), PAGE, 2 * PAGE, MREMAP_MAYMOVE));
    MAP(mmap(at(0), 8 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
    show_arena("sealed");
}

static void file_pages(void) {
    int fd = memfd_create("pages", 0);
    char *room = at(100);
    arena_clear();
    for (int n = 0; n < 4; n++) {
        char page[PAGE];
        memset(page, 'a' + n, PAGE);
        if (write(fd, page, PAGE) != (long)PAGE)
            perror("write");
    }
    mmap(room, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    CALL(remap_file_pages(room, PAGE, 0, 3, 0));
    CALL(remap_file_pages(room + 3 * PAGE + 5, PAGE + 7, 0, 0, 0));
    CALL(remap_file_pages(room, PAGE, 1, 0, 0));
    CALL(remap_file_pages(room, 5, 0, 0, 0));
    CALL(remap_file_pages(room, 9 * PAGE, 0, 0, 0));
    printf("%c%c%c%c\n", room[0], room[PAGE], room[2 * PAGE], room[3 * PAGE]);
    CALL(remap_file_pages(room, 4 * PAGE, 0, 0, 0));
    printf("%c%c%c%c\n", room[0], room[PAGE], room[2 * PAGE], room[3 * PAGE]);
    munmap(room, 4 * PAGE);
    close(fd);
}

int main(void) {
    faults_catch(0);
    arena_open();
    locks();
    limits();
    guards();
    file_pages();
    seals();
    return 0;
}
