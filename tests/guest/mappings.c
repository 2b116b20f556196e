/* mmap, munmap, mprotect, madvise and brk: results, errors and the regions that remain. */
#include "check.h"

#define RW (PROT_READ | PROT_WRITE)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)

static void place(void) {
    arena_clear();
    MAP(mmap(at(10), 3 * PAGE, RW, ANON, -1, 0));
    MAP(mmap(at(10), PAGE, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0));
    MAP(mmap(at(13), PAGE, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0));
    MAP(mmap(at(9) + 5, 100, RW, ANON, -1, 0));
    show_arena("hints that fit merge");
    MAP(mmap(at(11), PAGE, PROT_READ, ANON | MAP_FIXED, -1, 0));
    show_arena("fixed in the middle");
    MAP(mmap(at(11) + 1, PAGE, RW, ANON | MAP_FIXED, -1, 0));
    MAP(mmap(at(11) + 1, PAGE, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0));
    MAP(mmap(at(20), 0, RW, ANON, -1, 0));
    MAP(mmap(at(20), -1UL, RW, ANON, -1, 0));
    MAP(mmap(at(20), -PAGE, RW, ANON, -1, 0));
    MAP(mmap(at(20), 1UL << 47, RW, ANON | MAP_NORESERVE, -1, 0));
    MAP(mmap(at(20), PAGE, RW, MAP_ANONYMOUS, -1, 0));
    MAP(mmap(at(20), PAGE, RW, MAP_SHARED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    MAP(mmap(at(20), PAGE, RW, MAP_PRIVATE, -1, 0));
    MAP(mmap(at(20), PAGE, RW, MAP_PRIVATE, 987, 0));
    MAP((void *)syscall(SYS_mmap, at(20), PAGE, RW, MAP_PRIVATE, 0, 5));
    MAP(mmap((void *)(1UL << 47), PAGE, RW, ANON | MAP_FIXED, -1, 0));
    MAP(mmap((void *)-PAGE, PAGE, RW, ANON | MAP_FIXED, -1, 0));
    MAP(mmap((void *)(1UL << 47), PAGE, RW, ANON, -1, 0));
    void *low = mmap(NULL, PAGE, RW, ANON | MAP_32BIT, -1, 0);
    printf("MAP_32BIT lies below 2 GiB: %d\n", (unsigned long)low < 1UL << 31);
    munmap(low, PAGE);
    MAP(mmap(at(30), 4 * PAGE, RW, ANON | MAP_GROWSDOWN, -1, 0));
    MAP(mmap(at(40), 2 * PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    MAP(mmap(at(42), 2 * PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    MAP(mmap(at(44), 2 * PAGE, PROT_READ, MAP_SHARED_VALIDATE | MAP_ANONYMOUS, -1, 0));
    MAP(mmap(at(50), 2 * PAGE, RW, ANON | MAP_POPULATE, -1, 0));
    show_arena("kinds");
}

static void unmap(void) {
    arena_clear();
    mmap(at(0), 10 * PAGE, RW, ANON | MAP_FIXED, -1, 0);
    memset(at(0), 7, 10 * PAGE);
    CALL(munmap(at(3), PAGE));
    CALL(munmap(at(3), PAGE));
    CALL(munmap(at(5), 2 * PAGE));
    show_arena("holes");
    CALL(munmap(at(1), 8 * PAGE));
    show_arena("over holes");
    peek("what stayed", at(0) + 4095);
    peek("what stayed", at(9));
    peek("what went", at(4));
    CALL(munmap(at(0) + 1, PAGE));
    CALL(munmap(at(0), 0));
    CALL(munmap(at(0), 1));
    CALL(munmap(at(0), -1UL));
    CALL(munmap((void *)(1UL << 47), PAGE));
    CALL(munmap(at(100), PAGE));
    show_arena("after errors");
}

static void protect(void) {
    arena_clear();
    mmap(at(0), 8 * PAGE, RW, ANON | MAP_FIXED, -1, 0);
    for (int i = 0; i < 8; i++)
        *at((unsigned long)i) = (char)(i + 1);
    CALL(mprotect(at(2), PAGE, PROT_READ));
    CALL(mprotect(at(4), 2 * PAGE, PROT_NONE));
    show_arena("split");
    poke("into read-only", at(2), 9);
    peek("no access", at(5));
    CALL(mprotect(at(4), 2 * PAGE, RW));
    CALL(mprotect(at(2), PAGE, RW));
    show_arena("merged");
    for (unsigned long i = 0; i < 8; i++)
        peek("back", at(i));
    CALL(munmap(at(6), PAGE));
    CALL(mprotect(at(5), 3 * PAGE, PROT_READ));
    show_arena("changed up to the hole");
    CALL(mprotect(at(6), PAGE, PROT_READ));
    CALL(mprotect(at(0) + 1, PAGE, PROT_READ));
    CALL(mprotect(at(0), 0, PROT_READ));
    CALL(mprotect(at(0), PAGE, 0x100));
    CALL(mprotect(at(0), PAGE, PROT_READ | PROT_GROWSDOWN | PROT_GROWSUP));
    CALL(mprotect(at(0), PAGE, PROT_READ | PROT_GROWSDOWN));
    CALL(mprotect(at(0), -PAGE, PROT_READ));
    CALL(mprotect(at(0), PAGE, PROT_READ | PROT_EXEC));
    CALL(mprotect(at(1), PAGE, PROT_EXEC));
    peek("execute-only", at(1));
    show_arena("executable");
}

static void many(void) {
    arena_clear();
    mmap(at(0), 1000 * PAGE, RW, ANON | MAP_FIXED, -1, 0);
    memset(at(0), 1, 1000 * PAGE);
    for (unsigned long i = 0; i < 1000; i += 2)
        mprotect(at(i), PAGE, PROT_READ);
    unsigned long sum = 0;
    for (unsigned long i = 0; i < 1000; i++)
        sum += (unsigned long)*at(i);
    printf("a thousand splits, sum %lu\n", sum);
    for (unsigned long i = 0; i < 1000; i += 4)
        munmap(at(i), PAGE);
    for (unsigned long i = 0; i < 1000; i += 4)
        mmap(at(i), PAGE, PROT_READ, ANON | MAP_FIXED_NOREPLACE, -1, 0);
    mprotect(at(0), 1000 * PAGE, RW);
    sum = 0;
    for (unsigned long i = 0; i < 1000; i++)
        sum += (unsigned long)*at(i);
    printf("sum %lu\n", sum);
    for (unsigned long i = 0; i < 1000; i++)
        *at(i) = 2;
    show_arena("one again");
}

static void advise(void) {
    arena_clear();
    mmap(at(0), 8 * PAGE, RW, ANON | MAP_FIXED, -1, 0);
    memset(at(0), 7, 8 * PAGE);
    CALL(madvise(at(2), 2 * PAGE, MADV_DONTNEED));
    peek("dropped", at(2));
    peek("kept", at(4));
    CALL(madvise(at(4), 2 * PAGE, MADV_FREE));
    *at(4) = 9;
    peek("written after free", at(4));
    volatile char freed = *at(5);
    printf("freed page reads old or zero: %d\n", freed == 7 || freed == 0);
    CALL(madvise(at(0), PAGE, MADV_NORMAL));
    CALL(madvise(at(0), PAGE, MADV_RANDOM));
    CALL(madvise(at(1), PAGE, MADV_SEQUENTIAL));
    CALL(madvise(at(0), PAGE, MADV_WILLNEED));
    show_arena("advice splits");
    CALL(madvise(at(0), 2 * PAGE, MADV_NORMAL));
    show_arena("and merges");
    CALL(madvise(at(0) + 1, PAGE, MADV_DONTNEED));
    CALL(madvise(at(0), 0, MADV_DONTNEED));
    CALL(madvise(at(0), PAGE, 12345));
    CALL(madvise(at(0), -1UL, MADV_DONTNEED));
    CALL(munmap(at(1), PAGE));
    memset(at(2), 3, PAGE);
    CALL(madvise(at(0), 3 * PAGE, MADV_DONTNEED));
    peek("dropped before the hole", at(0));
    peek("dropped behind the hole", at(2));
    mmap(at(20), 4 * PAGE, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    memset(at(20), 5, 4 * PAGE);
    CALL(madvise(at(20), 2 * PAGE, MADV_DONTNEED));
    peek("shared memory keeps what it holds", at(20));
    CALL(madvise(at(20), 2 * PAGE, MADV_FREE));
    mmap(at(30), PAGE, PROT_READ, ANON | MAP_FIXED, -1, 0);
    CALL(madvise(at(30), PAGE, MADV_DONTNEED));
}

static void breaks(void) {
    char *start = sbrk(0);
    char *aligned = (char *)(((unsigned long)start + PAGE - 1) & ~(PAGE - 1));
    CALL(brk(aligned + 10 * PAGE + 123));
    printf("break moved exactly: %d\n", (char *)sbrk(0) == aligned + 10 * PAGE + 123);
    memset(aligned, 9, 10 * PAGE + 123);
    peek("the rest of the break's page", aligned + 10 * PAGE + 4000);
    peek("behind the break", aligned + 11 * PAGE);
    CALL(brk(aligned + 3 * PAGE));
    peek("below the break", aligned + 3 * PAGE - 1);
    peek("given back", aligned + 3 * PAGE);
    CALL(brk(aligned + 10 * PAGE));
    peek("grown again", aligned + 3 * PAGE);
    printf("a break below the start changes nothing: %d\n", (void *)syscall(SYS_brk, aligned - (64UL << 30)) == (void *)(aligned + 10 * PAGE));
    printf("nor one beyond the address space: %d\n", (void *)syscall(SYS_brk, 1UL << 63) == (void *)(aligned + 10 * PAGE));
    mmap(aligned + 20 * PAGE, PAGE, RW, ANON | MAP_FIXED, -1, 0);
    printf("nor one over a mapping: %d\n", (void *)syscall(SYS_brk, aligned + 21 * PAGE) == (void *)(aligned + 10 * PAGE));
    CALL(munmap(aligned + 20 * PAGE, PAGE));
    struct rlimit limit = {PAGE, RLIM_INFINITY};
    CALL(setrlimit(RLIMIT_DATA, &limit));
    CALL(brk(aligned + 12 * PAGE));
    MAP(mmap(at(60), 100 * PAGE, RW, ANON, -1, 0));
    MAP(mmap(at(60), 100 * PAGE, PROT_READ, ANON, -1, 0));
    CALL(mprotect(at(60), 100 * PAGE, RW));
    limit.rlim_cur = RLIM_INFINITY;
    CALL(setrlimit(RLIMIT_DATA, &limit));
    CALL(brk(start));
}

static void limits(void) {
    arena_clear();
    struct rlimit limit = {1UL << 20, RLIM_INFINITY};
    CALL(setrlimit(RLIMIT_AS, &limit));
    MAP(mmap(at(0), PAGE, RW, ANON, -1, 0));
    limit.rlim_cur = RLIM_INFINITY;
    CALL(setrlimit(RLIMIT_AS, &limit));
    MAP(mmap(at(0), PAGE, RW, ANON, -1, 0));
    unsigned char present[4] = {9, 9, 9, 9};
    CALL(mincore(at(0), PAGE, present));
    printf("not touched: %d\n", present[0] & 1);
    *at(0) = 1;
    CALL(mincore(at(0), PAGE, present));
    printf("touched: %d\n", present[0] & 1);
    CALL(mincore(at(5), PAGE, present));
    CALL(mincore(at(0) + 1, PAGE, present));
}

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    arena_open();
    faults_catch(0);
    place();
    unmap();
    protect();
    many();
    advise();
    breaks();
    limits();
    return 0;
}
