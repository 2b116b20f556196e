/* mremap: shrink, grow in place, move, to a fixed place, leaving the old place empty, duplicating shared memory, several mappings
 * in one call; what is copied, what goes, and every refusal. */
#include "check.h"

#define RW (PROT_READ | PROT_WRITE)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED)

static void fill(unsigned long page, unsigned long pages) {
    mmap(at(page), pages * PAGE, RW, ANON, -1, 0);
    for (unsigned long i = 0; i < pages; i++)
        memset(at(page + i), (int)(page + i), PAGE);
}

static void in_place(void) {
    arena_clear();
    fill(10, 8);
    MAP(mremap(at(10), 8 * PAGE, 5 * PAGE, 0));
    show_arena("shrunk");
    peek("kept", at(14));
    peek("cut off", at(15));
    MAP(mremap(at(10), 5 * PAGE, 7 * PAGE, 0));
    show_arena("grown in place");
    peek("old", at(14));
    peek("new", at(15));
    MAP(mremap(at(12), 5 * PAGE, 6 * PAGE, 0));
    show_arena("its tail grown");
    fill(18, 1);
    mprotect(at(18), PAGE, PROT_READ);
    MAP(mremap(at(10), 8 * PAGE, 9 * PAGE, 0));
    MAP(mremap(at(10), 4 * PAGE, 6 * PAGE, 0));
    MAP(mremap(at(10), PAGE, PAGE, 0));
    MAP(mremap(at(10), 1, 2, 0));
    show_arena("unchanged");
}

static void moves(void) {
    arena_clear();
    fill(10, 4);
    fill(14, 1);
    mprotect(at(14), PAGE, PROT_READ);
    char *p = mremap(at(10), 4 * PAGE, 6 * PAGE, MREMAP_MAYMOVE);
    printf("moved: %d\n", p != MAP_FAILED && p != at(10));
    if (p == MAP_FAILED)
        return;
    for (int i = 0; i < 6; i++)
        peek("moved page", p + i * (long)PAGE);
    peek("the old place", at(10));
    MAP(mremap(p, 6 * PAGE, 6 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at(100)));
    show_arena("to a fixed place");
    peek("there", at(103));
    fill(200, 3);
    MAP(mremap(at(100), 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at(201)));
    show_arena("over another");
    peek("before", at(200));
    peek("there", at(202));
    MAP(mremap(at(102), 2 * PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at(210)));
    show_arena("moved and shrunk");
    MAP(mremap(at(104), 2 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at(220)));
    show_arena("moved and grown");
    peek("grown part", at(223));
    fill(512, 1024);
    MAP(mremap(at(512), 1024 * PAGE, 1024 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at(2048)));
    unsigned long sum = 0;
    for (unsigned long i = 0; i < 1024; i++)
        sum += (unsigned char)*at(2048 + i);
    printf("whole tables moved: %lu\n", sum);
    MAP(mremap(at(2049), 700 * PAGE, 700 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at(600)));
    sum = 0;
    for (unsigned long i = 0; i < 700; i++)
        sum += (unsigned char)*at(600 + i);
    printf("not aligned to tables: %lu\n", sum);
    show_arena("big ones");
}

static void leaves(void) {
    arena_clear();
    fill(10, 4);
    MAP(mremap(at(10), 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP | MREMAP_FIXED, at(50)));
    show_arena("left in place");
    peek("old place, empty", at(10));
    peek("new place", at(51));
    char *p = mremap(at(50), 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP);
    printf("anywhere: %d\n", p != MAP_FAILED && p != at(50));
    peek("there", p + PAGE);
    MAP(mremap(at(10), 4 * PAGE, 5 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP));
    MAP(mremap(at(10), 4 * PAGE, 4 * PAGE, MREMAP_DONTUNMAP));
}

static void shared(void) {
    arena_clear();
    mmap(at(10), 4 * PAGE, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    memset(at(10), 1, 4 * PAGE);
    MAP(mremap(at(10), 0, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at(30)));
    *at(11) = 77;
    peek("the duplicate sees the write", at(31));
    MAP(mremap(at(10), 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at(60)));
    peek("moved", at(61));
    poke("into the duplicate", at(30), 33);
    peek("seen where it moved", at(60));
    show_arena("shared");
    fill(100, 2);
    MAP(mremap(at(100), 0, PAGE, MREMAP_MAYMOVE));
    int fd = make_file("remap.data", 6 * PAGE);
    mmap(at(120), 3 * PAGE, RW, MAP_SHARED | MAP_FIXED, fd, PAGE);
    MAP(mremap(at(121), 2 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at(130)));
    show_arena("the offset moves along");
    peek("the file's third page", at(130));
    peek("the file's last page", at(133));
    mmap(at(140), 3 * PAGE, RW, MAP_PRIVATE | MAP_FIXED, fd, 0);
    *at(141) = 5;
    MAP(mremap(at(140), 3 * PAGE, 3 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at(150)));
    peek("private copy moved along", at(151));
    peek("not copied", at(152));
    close(fd);
    unlink("remap.data");
}

static void several(void) {
    arena_clear();
    fill(10, 2);
    fill(13, 2);
    mmap(at(15), 2 * PAGE, PROT_READ, ANON, -1, 0);
    MAP(mremap(at(10), 7 * PAGE, 7 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at(40)));
    show_arena("several in one call");
    peek("first", at(41));
    peek("second", at(44));
    MAP(mremap(at(40), 7 * PAGE, 8 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at(60)));
    MAP(mremap(at(42), 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at(60)));
    show_arena("a start in a hole");
}

static void refusals(void) {
    arena_clear();
    fill(10, 4);
    MAP(mremap(at(10) + 1, PAGE, PAGE, 0));
    MAP(mremap(at(10), PAGE, 0, 0));
    MAP(mremap(at(10), PAGE, PAGE, 64));
    MAP(mremap(at(10), PAGE, PAGE, MREMAP_FIXED, at(20)));
    MAP(mremap(at(10), PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at(20) + 1));
    MAP(mremap(at(10), 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at(12)));
    MAP(mremap(at(10), PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)(1UL << 47)));
    MAP(mremap(at(0), PAGE, 2 * PAGE, MREMAP_MAYMOVE));
    MAP(mremap(at(12), 4 * PAGE, 8 * PAGE, MREMAP_MAYMOVE));
    MAP(mremap(at(10), PAGE, -1UL, MREMAP_MAYMOVE));
    MAP(mremap(at(10), PAGE, -PAGE, MREMAP_MAYMOVE));
    MAP(mremap(at(10), PAGE, 1UL << 46, MREMAP_MAYMOVE));
    MAP(mremap(at(10), -PAGE, PAGE, MREMAP_MAYMOVE));
    show_arena("unchanged");
}

/* With an argument: only what Linux can do since 6.17. */
int main(int argc, char **argv) {
    (void)argv;
    setvbuf(stdout, NULL, _IOLBF, 0);
    arena_open();
    faults_catch(0);
    if (argc > 1) {
        several();
        return 0;
    }
    in_place();
    moves();
    leaves();
    shared();
    refusals();
    return 0;
}
