/* What the guest programs share: output that does not depend on where things lie, and faults as values.
 * Every program prints facts about the memory it was given; the same binary runs natively and under Portolan and must print the same. */
#ifndef CHECK_H
#define CHECK_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define PAGE 4096UL
#define ARENA_PAGES 4096UL

/* A stretch of addresses that belongs to the test alone: results are printed relative to it. */
static char *arena;

static inline void arena_open(void) {
    arena = mmap(NULL, (ARENA_PAGES + 2) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (arena == MAP_FAILED) {
        perror("arena");
        exit(2);
    }
    arena += PAGE;
}

/* Empties it: nothing is mapped between the first and the last page, which stay as fences. */
static inline void arena_clear(void) {
    munmap(arena, ARENA_PAGES * PAGE);
}

static inline char *at(unsigned long page) {
    return arena + page * PAGE;
}

static inline int in_arena(const void *p) {
    return (const char *)p >= arena && (const char *)p < arena + ARENA_PAGES * PAGE;
}

static inline const char *error_name(int error) {
    return error == 0 ? "ok" : strerrorname_np(error) ? strerrorname_np(error) : "?";
}

/* Prints the result of a call that returns 0 or -1. */
#define CALL(call)                                                                                                     \
    do {                                                                                                               \
        errno = 0;                                                                                                     \
        long result_ = (long)(call);                                                                                   \
        printf("%s = %s\n", #call, result_ == -1 ? error_name(errno) : result_ == 0 ? "0" : "other");                  \
    } while (0)

/* Prints the result of a call that returns an address: relative to the arena, or that it lies elsewhere. */
static inline void *show_address(const char *what, void *p) {
    int error = errno;
    if (p == MAP_FAILED)
        printf("%s = %s\n", what, error_name(error));
    else if (in_arena(p))
        printf("%s = arena+%ld.%03lx\n", what, (long)(((char *)p - arena) / (long)PAGE), (unsigned long)p % PAGE);
    else
        printf("%s = elsewhere\n", what);
    return p;
}
#define MAP(call) show_address(#call, (call))

/* Prints the part of /proc/self/maps that lies in the arena, relative to it. */
static inline void show_arena(const char *when) {
    printf("-- %s\n", when);
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[4600];
    while (maps && fgets(line, sizeof line, maps)) {
        unsigned long start, end, offset, inode;
        char flags[8], device[16];
        int name = 0;
        if (sscanf(line, "%lx-%lx %7s %lx %15s %lu %n", &start, &end, flags, &offset, device, &inode, &name) < 6)
            continue;
        if (!in_arena((void *)start))
            continue;
        line[strcspn(line, "\n")] = 0;
        const char *path = name ? line + name : "";
        const char *last = strrchr(path, '/');
        printf("   %4ld +%-4ld %s %lx %s\n", (long)(start - (unsigned long)arena) / (long)PAGE, (long)((end - start) / PAGE),
               flags, offset, last && strncmp(path, "/dev/", 5) ? last + 1 : path);
    }
    if (maps)
        fclose(maps);
}

/* Faults as values: TRY(statement) runs it and leaves what signal it met in `fault`. */
static struct {
    int signal, code, trap, write, fetch;
    void *addr;
} fault;
static sigjmp_buf fault_out;
static volatile int fault_expected;

static void fault_handler(int signal, siginfo_t *info, void *context) {
    if (!fault_expected) {
        static const char text[] = "unexpected fault\n";
        write(1, text, sizeof text - 1);
        _exit(3);
    }
    const greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
    fault.signal = signal;
    fault.code = info->si_code;
    fault.addr = info->si_addr;
    fault.trap = (int)regs[REG_TRAPNO];
    fault.write = (regs[REG_ERR] & 2) != 0;
    fault.fetch = (regs[REG_ERR] & 16) != 0;
    siglongjmp(fault_out, 1);
}

static inline void faults_catch(int flags) {
    struct sigaction action = {.sa_sigaction = fault_handler, .sa_flags = SA_SIGINFO | flags};
    sigemptyset(&action.sa_mask);
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
}

#define TRY(statement)                                                                                                 \
    do {                                                                                                               \
        memset(&fault, 0, sizeof fault);                                                                               \
        fault_expected = 1;                                                                                            \
        if (sigsetjmp(fault_out, 1) == 0) {                                                                            \
            statement;                                                                                                 \
        }                                                                                                              \
        fault_expected = 0;                                                                                            \
    } while (0)

static inline const char *fault_name(void) {
    if (fault.signal == 0)
        return "ok";
    if (fault.signal == SIGBUS)
        return fault.code == BUS_ADRERR ? "SIGBUS/ADRERR" : fault.code == BUS_ADRALN ? "SIGBUS/ADRALN" : "SIGBUS/?";
    if (fault.code == SEGV_MAPERR)
        return "SIGSEGV/MAPERR";
    if (fault.code == SEGV_ACCERR)
        return "SIGSEGV/ACCERR";
    return fault.code == SI_KERNEL ? "SIGSEGV/KERNEL" : "SIGSEGV/?";
}

/* Prints what became of an access at `p`: the fault and whether it named the address. */
static inline void show_fault(const char *what, const volatile void *p) {
    if (fault.signal == 0)
        printf("%s: ok\n", what);
    else
        printf("%s: %s address %s%s%s\n", what, fault_name(), fault.addr == p ? "exact" : "other", fault.write ? " write" : "",
               fault.fetch ? " fetch" : "");
}

static inline void peek(const char *what, const void *p) {
    volatile char value = 0;
    TRY(value = *(volatile const char *)p);
    if (fault.signal == 0)
        printf("read %s: %d\n", what, value);
    else
        printf("read "), show_fault(what, p);
}

static inline void poke(const char *what, void *p, char value) {
    TRY(*(volatile char *)p = value);
    printf("write ");
    show_fault(what, p);
}

/* A file of `bytes` bytes in the working directory, page n filled with 'a' + n. */
static inline int make_file(const char *name, long bytes) {
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (fd < 0) {
        perror(name);
        exit(2);
    }
    char page[PAGE];
    for (long done = 0; done < bytes; done += (long)PAGE) {
        memset(page, 'a' + (int)(done / (long)PAGE) % 26, sizeof page);
        long part = bytes - done < (long)PAGE ? bytes - done : (long)PAGE;
        if (write(fd, page, (size_t)part) != part) {
            perror(name);
            exit(2);
        }
    }
    return fd;
}
#endif
