/* Calls that on one node, one thread and a CPU without protection keys have little to do but must answer right: NUMA policy, barriers, keys; and how much
 * of a memory file is cached. */
#include "check.h"
#include <linux/mempolicy.h>

typedef unsigned long ulong;

static long mbind_(void *p, ulong len, int mode, const ulong *mask, ulong maxnode, unsigned flags) {
    return syscall(SYS_mbind, p, len, mode, mask, maxnode, flags);
}
static long set_policy(int mode, const ulong *mask, ulong maxnode) {
    return syscall(SYS_set_mempolicy, mode, mask, maxnode);
}
static long get_policy(int *mode, ulong *mask, ulong maxnode, void *p, ulong flags) {
    return syscall(SYS_get_mempolicy, mode, mask, maxnode, p, flags);
}
static long home_node(void *p, ulong len, ulong node, ulong flags) {
    return syscall(SYS_set_mempolicy_home_node, p, len, node, flags);
}

static void show_policy(const char *what, void *p, ulong flags) {
    int mode = -1;
    ulong mask[2] = {~0UL, ~0UL};
    errno = 0;
    long result = get_policy(&mode, mask, 128, p, flags);
    if (result)
        printf("%s: %s\n", what, error_name(errno));
    else
        printf("%s: mode %x mask %lx %lx\n", what, mode, mask[0], mask[1]);
}

static void tasks(void) {
    ulong node0 = 1, node1 = 2, both = 3, none = 0;
    static const int modes[] = {MPOL_DEFAULT,    MPOL_PREFERRED, MPOL_BIND, MPOL_INTERLEAVE, MPOL_LOCAL,
                                MPOL_PREFERRED_MANY, 6,              7,         -1};
    for (unsigned n = 0; n < sizeof modes / sizeof *modes; n++) {
        printf("mode %d\n", modes[n]);
        CALL(set_policy(modes[n], NULL, 0));
        show_policy("task", NULL, 0);
        CALL(set_policy(modes[n], &none, 64));
        CALL(set_policy(modes[n], &node0, 64));
        show_policy("task", NULL, 0);
        CALL(set_policy(modes[n], &node1, 64));
        CALL(set_policy(modes[n], &both, 64));
        show_policy("task", NULL, 0);
        CALL(set_policy(modes[n] | MPOL_F_STATIC_NODES, &both, 64));
        show_policy("task", NULL, 0);
        CALL(set_policy(modes[n] | MPOL_F_RELATIVE_NODES, &node1, 64));
        show_policy("task", NULL, 0);
        CALL(set_policy(modes[n] | MPOL_F_NUMA_BALANCING, &node0, 64));
        show_policy("node", NULL, MPOL_F_NODE);
    }
    CALL(set_policy(MPOL_BIND | MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES, &node0, 64));
    CALL(set_policy(MPOL_BIND, &node0, 0));
    CALL(set_policy(MPOL_BIND, &node0, 1));
    CALL(set_policy(MPOL_BIND, &both, 2));
    CALL(set_policy(MPOL_BIND, &node0, 32770));
    CALL(set_policy(MPOL_BIND, (ulong *)8, 64));
    CALL(set_policy(MPOL_DEFAULT, NULL, 0));
    show_policy("allowed", NULL, MPOL_F_MEMS_ALLOWED);
    show_policy("allowed, and an address", NULL, MPOL_F_MEMS_ALLOWED | MPOL_F_ADDR);
    show_policy("an address without the flag", arena, 0);
    show_policy("an unknown flag", NULL, 64);
    ulong mask[512];
    memset(mask, 0xff, sizeof mask);
    CALL(get_policy(NULL, mask, 0, NULL, 0));
    CALL(get_policy(NULL, mask, 4096 * 8 + 2, NULL, 0));
    CALL(get_policy(NULL, mask, 513 * 64, NULL, MPOL_F_MEMS_ALLOWED));
    CALL(get_policy(NULL, mask, 200, NULL, MPOL_F_MEMS_ALLOWED));
    printf("%lx %lx %lx %lx %lx\n", mask[0], mask[1], mask[2], mask[3], mask[4]);
    CALL(get_policy(NULL, NULL, 0, NULL, 0));
    CALL(get_policy((int *)8, NULL, 0, NULL, 0));
}

static void areas(void) {
    ulong node0 = 1, node1 = 2;
    mmap(at(0), 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    show_policy("area", at(0), MPOL_F_ADDR);
    CALL(mbind_(at(2), 2 * PAGE, MPOL_BIND, &node0, 64, 0));
    show_arena("bound in the middle");
    show_policy("bound", at(2), MPOL_F_ADDR);
    show_policy("its node", at(2), MPOL_F_ADDR | MPOL_F_NODE);
    show_policy("not bound", at(4), MPOL_F_ADDR);
    show_policy("a hole", at(20), MPOL_F_ADDR);
    CALL(mbind_(at(4), 2 * PAGE, MPOL_BIND, &node0, 64, 0));
    show_arena("merged");
    CALL(home_node(at(2), PAGE, 0, 0));
    show_arena("a home");
    CALL(home_node(at(2), PAGE, 1, 0));
    CALL(home_node(at(2), PAGE, 0, 1));
    CALL(home_node(at(2) + 1, PAGE, 0, 0));
    CALL(home_node(at(7), PAGE, 0, 0));
    CALL(home_node(at(2), 0, 0, 0));
    CALL(mbind_(at(2), 4 * PAGE, MPOL_DEFAULT, NULL, 0, 0));
    show_arena("default again");
    CALL(mbind_(at(6), 4 * PAGE, MPOL_BIND, &node0, 64, 0));
    CALL(mbind_(at(6), 4 * PAGE, MPOL_DEFAULT, NULL, 0, 0));
    CALL(mbind_(at(20), PAGE, MPOL_DEFAULT, NULL, 0, 0));
    CALL(mbind_(at(0) + 1, PAGE, MPOL_BIND, &node0, 64, 0));
    CALL(mbind_(at(0), 0, MPOL_BIND, &node0, 64, 0));
    CALL(mbind_(at(0), -1UL, MPOL_BIND, &node0, 64, 0));
    CALL(mbind_(at(0), PAGE, MPOL_BIND, &node1, 64, 0));
    CALL(mbind_(at(0), PAGE, MPOL_BIND, &node0, 64, 8));
    CALL(mbind_(at(0), PAGE, MPOL_BIND, &node0, 64, 16));
    CALL(mbind_(at(0), PAGE, MPOL_INTERLEAVE, &node0, 64, MPOL_MF_STRICT | MPOL_MF_MOVE));
    CALL(home_node(at(0), PAGE, 0, 0));
    arena_clear();
}

static void moves(void) {
    ulong node0 = 1, node1 = 2;
    char *p = mmap(at(0), 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    p[0] = 1;
    volatile char zero = p[PAGE];
    (void)zero;
    void *pages[] = {p, p + PAGE, p + 2 * PAGE, at(30), p + 5};
    int nodes[] = {0, 0, 0, 0, 0}, status[] = {99, 99, 99, 99, 99};
    CALL(syscall(SYS_move_pages, 0, 5, pages, NULL, status, 0));
    printf("%d %d %d %d %d\n", status[0], status[1], status[2], status[3], status[4]);
    CALL(syscall(SYS_move_pages, getpid(), 5, pages, nodes, status, MPOL_MF_MOVE));
    printf("%d %d %d %d %d\n", status[0], status[1], status[2], status[3], status[4]);
    nodes[1] = 1;
    status[0] = status[1] = 99;
    CALL(syscall(SYS_move_pages, 0, 5, pages, nodes, status, MPOL_MF_MOVE));
    nodes[1] = -1;
    CALL(syscall(SYS_move_pages, 0, 5, pages, nodes, status, MPOL_MF_MOVE));
    CALL(syscall(SYS_move_pages, 0, 0, NULL, NULL, NULL, 0));
    CALL(syscall(SYS_move_pages, 0, 1, NULL, NULL, status, 0));
    CALL(syscall(SYS_move_pages, 0, 1, pages, NULL, NULL, 0));
    CALL(syscall(SYS_move_pages, 0, 1, pages, (int *)8, status, 0));
    CALL(syscall(SYS_move_pages, 0, 1, pages, NULL, status, 1));
    CALL(syscall(SYS_move_pages, -7, 1, pages, NULL, status, 0));
    CALL(syscall(SYS_migrate_pages, 0, 64, &node0, &node0));
    CALL(syscall(SYS_migrate_pages, 0, 64, &node1, &node0));
    CALL(syscall(SYS_migrate_pages, 0, 64, &node0, &node1));
    CALL(syscall(SYS_migrate_pages, 0, 64, NULL, NULL));
    CALL(syscall(SYS_migrate_pages, 0, 0, &node0, &node0));
    CALL(syscall(SYS_migrate_pages, -7, 64, &node0, &node0));
    arena_clear();
}

static void barriers(void) {
    static const int commands[] = {512, 1, 2, 8, 32, 4, 512, 64, 512, 32, 8, 16, 8, 512, 24, 1024, -1};
    printf("query %lx\n", syscall(SYS_membarrier, 0, 0, 0) & 0x27f);
    for (unsigned n = 0; n < sizeof commands / sizeof *commands; n++) {
        errno = 0;
        long result = syscall(SYS_membarrier, commands[n], 0, 0);
        printf("membarrier %d: %lx %s\n", commands[n], result, error_name(errno));
    }
    CALL(syscall(SYS_membarrier, 0, 1, 0));
    CALL(syscall(SYS_membarrier, 16, 1, 0));
}

static void keys(void) {
    /* What answers alike whether the CPU has keys or not. */
    mmap(at(0), PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    CALL(syscall(SYS_pkey_mprotect, at(0), PAGE, PROT_READ | PROT_WRITE, -1));
    CALL(syscall(SYS_pkey_mprotect, at(0), PAGE, PROT_READ, 16));
    CALL(syscall(SYS_pkey_alloc, 1, 0));
    CALL(syscall(SYS_pkey_alloc, 0, 8));
    CALL(syscall(SYS_pkey_free, 17));
    poke("without a key", at(0), 1);
    arena_clear();
}

static void show_cached(const char *what, int fd, ulong offset, ulong len) {
    ulong range[2] = {offset, len}, stat[5] = {9, 9, 9, 9, 9};
    errno = 0;
    long result = syscall(451, fd, range, stat, 0);
    printf("%s: %ld %s, cached %lu evicted %lu %lu\n", what, result, error_name(errno), stat[0], stat[3], stat[4]);
}

static void cached(void) {
    int fd = memfd_create("cached", 0), ends[2];
    ulong range[2] = {0, 0}, stat[5];
    if (ftruncate(fd, 10 * PAGE) || pwrite(fd, "x", 1, 0) != 1 || pwrite(fd, "yz", 2, 4 * PAGE - 1) != 2)
        perror("memfd");
    show_cached("all", fd, 0, 0);
    show_cached("first", fd, 0, PAGE);
    show_cached("second", fd, PAGE, PAGE);
    show_cached("two bytes", fd, 4 * PAGE - 1, 2);
    show_cached("to the end", fd, 4 * PAGE, 0);
    show_cached("beyond", fd, 100 * PAGE, 0);
    show_cached("wrapping", fd, 3 * PAGE, -1UL);
    CALL(syscall(451, fd, range, stat, 1));
    CALL(syscall(451, fd, NULL, stat, 0));
    CALL(syscall(451, fd, range, NULL, 0));
    CALL(syscall(451, -1, range, stat, 0));
    if (pipe(ends))
        perror("pipe");
    show_cached("pipe", ends[1], 0, 0);
}

int main(void) {
    faults_catch(0);
    arena_open();
    arena_clear();
    tasks();
    areas();
    moves();
    barriers();
    keys();
    cached();
    return 0;
}
