/* Sealed memory files: what each seal refuses, to calls on the descriptor and to mappings. */
#include "check.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U
#define MFD_EXEC 16U
#endif

static int memory(unsigned flags) {
    int fd = memfd_create("sealed", flags);
    if (fd < 0) {
        printf("memfd_create(%x) = %s\n", flags, error_name(errno));
        exit(2);
    }
    if (ftruncate(fd, 4 * PAGE))
        perror("ftruncate");
    return fd;
}

static void sizes(void) {
    char page[2 * PAGE];
    int fd = memory(MFD_ALLOW_SEALING);
    memset(page, 'x', sizeof page);
    CALL(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK));
    CALL(ftruncate(fd, 3 * PAGE));
    CALL(ftruncate(fd, 5 * PAGE));
    CALL(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW));
    CALL(ftruncate(fd, 6 * PAGE));
    CALL(ftruncate(fd, 5 * PAGE));
    CALL(pwrite(fd, page, 1, 5 * PAGE));
    printf("%ld\n", (long)pwrite(fd, page, PAGE + 1, 4 * PAGE));
    CALL(pwrite(fd, page, 2, 5 * PAGE - 1));
    CALL(fallocate(fd, 0, 0, 6 * PAGE));
    CALL(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 6 * PAGE));
    CALL(fallocate(fd, 0, 0, 5 * PAGE));
    CALL(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE));
    CALL(fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL));
    CALL(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
    printf("seals %x\n", fcntl(fd, F_GET_SEALS));
    close(fd);
}

static void writes(void) {
    int fd = memory(MFD_ALLOW_SEALING);
    char *p = mmap(at(0), 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    p[0] = 7;
    CALL(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
    CALL(mprotect(p, 4 * PAGE, PROT_READ));
    CALL(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
    CALL(munmap(p, 4 * PAGE));
    CALL(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
    CALL(pwrite(fd, "x", 1, 0));
    CALL(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE));
    MAP(mmap(at(0), PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0));
    MAP(mmap(at(0), PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0));
    peek("sealed", at(0));
    CALL(mprotect(at(0), PAGE, PROT_READ | PROT_WRITE));
    CALL(madvise(at(0), PAGE, MADV_REMOVE));
    MAP(mmap(at(8), PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 0));
    poke("private", at(8), 9);
    CALL(ftruncate(fd, 8 * PAGE));
    arena_clear();
    close(fd);
}

static void future(void) {
    int fd = memory(MFD_ALLOW_SEALING);
    mmap(at(0), 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    CALL(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE));
    poke("old mapping", at(1), 4);
    MAP(mmap(at(8), PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0));
    CALL(pwrite(fd, "x", 1, 0));
    CALL(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
    arena_clear();
    close(fd);
}

static void kinds(void) {
    int plain = memory(0), noexec = memory(MFD_NOEXEC_SEAL);
    CALL(fcntl(plain, F_ADD_SEALS, F_SEAL_GROW));
    printf("plain %x, noexec %x\n", fcntl(plain, F_GET_SEALS), fcntl(noexec, F_GET_SEALS));
    CALL(fcntl(noexec, F_ADD_SEALS, 0x40));
    int executable = memory(MFD_ALLOW_SEALING | MFD_EXEC);
    CALL(fcntl(executable, F_ADD_SEALS, 0x20));
    printf("executable %x\n", fcntl(executable, F_GET_SEALS));
    CALL(memfd_create("x", MFD_NOEXEC_SEAL | MFD_EXEC));
    CALL(memfd_create("x", 0x100));
    CALL(fcntl(0, F_GET_SEALS));
}

int main(void) {
    faults_catch(0);
    arena_open();
    arena_clear();
    sizes();
    writes();
    future();
    kinds();
    return 0;
}
