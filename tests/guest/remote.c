/* Memory reached by process id, advice through a process's descriptor, the places that PR_SET_MM changes, and calls of CPUs with protection keys. */
#include "check.h"
#include <sys/prctl.h>
#include <sys/uio.h>

#define SELF (-10000)

static void copies(void) {
    char *p = mmap(at(0), 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    struct iovec local[2] = {{p + 100, 50}, {p + 6 * PAGE, 2 * PAGE}}, remote[2] = {{p + 2 * PAGE - 20, 60}, {p + 3 * PAGE, PAGE}};
    struct iovec bad = {at(20), 10}, negative = {p, (size_t)-1};
    int pid = getpid();
    for (int n = 0; n < 4096; n++)
        p[PAGE + n] = (char)n, p[2 * PAGE + n] = (char)(n + 1), p[3 * PAGE + n] = (char)(n + 2);
    printf("%ld\n", (long)process_vm_readv(pid, local, 2, remote, 2, 0));
    printf("%d %d %d\n", p[100], p[149], p[6 * PAGE + 9]);
    printf("%ld\n", (long)process_vm_writev(pid, local, 1, remote, 1, 0));
    munmap(at(4), PAGE);
    remote[0] = (struct iovec){at(3), 2 * PAGE};
    local[0] = (struct iovec){at(6), 2 * PAGE};
    printf("across a hole: %ld\n", (long)process_vm_readv(pid, local, 1, remote, 1, 0));
    CALL(process_vm_readv(pid, local, 1, &bad, 1, 0));
    CALL(process_vm_readv(pid, &bad, 1, local, 1, 0));
    CALL(process_vm_readv(pid, local, 1, &negative, 1, 0));
    CALL(process_vm_readv(pid, local, 1, remote, 1, 1));
    CALL(process_vm_readv(pid, local, 1025, remote, 1, 0));
    CALL(process_vm_readv(pid, local, 0, remote, 1, 0));
    CALL(process_vm_readv(99999999, local, 1, remote, 1, 0));
    CALL(process_vm_readv(99999999, local, 1, remote, 0, 0));
    mprotect(at(3), PAGE, PROT_NONE);
    CALL(process_vm_readv(pid, local, 1, remote, 1, 0));
    mprotect(at(6), PAGE, PROT_READ);
    remote[0] = (struct iovec){at(6), 10};
    local[0] = (struct iovec){at(5), 10};
    CALL(process_vm_writev(pid, local, 1, remote, 1, 0));
}

static void advice(void) {
    arena_clear();
    char *p = mmap(at(0), 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    struct iovec pieces[3] = {{p, PAGE}, {p + 2 * PAGE, PAGE}, {at(20), PAGE}};
    memset(p, 1, 8 * PAGE);
    printf("%ld\n", (long)syscall(440, SELF, pieces, 2, MADV_DONTNEED, 0));
    printf("%d %d %d\n", p[0], p[PAGE], p[2 * PAGE]);
    printf("%ld\n", (long)syscall(440, SELF, pieces, 3, 20, 0));
    CALL(syscall(440, SELF, pieces + 2, 1, 20, 0));
    CALL(syscall(440, SELF, pieces, 1, 20, 1));
    CALL(syscall(440, -1, pieces, 1, 20, 0));
    CALL(syscall(440, SELF, pieces, 2000, 20, 0));
}

/* The options that need no right: even root may lack CAP_SYS_RESOURCE. */
static void places(void) {
    unsigned size = 0;
    struct prctl_mm_map map;
    CALL(prctl(PR_SET_MM, PR_SET_MM_MAP_SIZE, &size, 0, 0));
    printf("%u\n", size);
    CALL(prctl(PR_SET_MM, PR_SET_MM_MAP, &map, 5, 0));
    CALL(prctl(PR_SET_MM, PR_SET_MM_ARG_START, at(0), 1, 0));
    strcpy(at(0), "a new command line");
    unsigned long word = (unsigned long)at(0);
    map = (struct prctl_mm_map){word, word + 1, word, word, word, word, word, word, word + 18, word, word, NULL, 0, (unsigned)-1};
    CALL(prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof map, 0));
    int fd = open("/proc/self/cmdline", O_RDONLY);
    char line[64] = {0};
    printf("%ld: %s\n", (long)read(fd, line, sizeof line), line);
    close(fd);
    map.arg_end = word - 1;
    CALL(prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof map, 0));
    CALL(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
    printf("%d\n", prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
    CALL(prctl(PR_GET_THP_DISABLE, 0, 1, 0, 0));
}

int main(void) {
    faults_catch(0);
    arena_open();
    arena_clear();
    copies();
    advice();
    places();
    CALL(syscall(329, at(0), PAGE, PROT_READ, -1));
    CALL(syscall(329, at(0), PAGE, PROT_READ, 16));
    return 0;
}
