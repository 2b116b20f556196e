/* Memory files: names and flags, what fallocate and lseek say of holes, and what a descriptor tells of them. */
#include "check.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U
#define MFD_EXEC 16U
#endif

static void show(const char *what, int fd) {
    struct stat stat;
    if (fstat(fd, &stat)) {
        printf("%s: fstat %s\n", what, error_name(errno));
        return;
    }
    printf("%s: size %ld blocks %ld mode %o links %ld blksize %ld\n", what, (long)stat.st_size, (long)stat.st_blocks, stat.st_mode,
           (long)stat.st_nlink, (long)stat.st_blksize);
}

static void names(void) {
    char name[300], link[300], path[64];
    memset(name, 'n', sizeof name);
    for (int len = 247; len <= 251; len++) {
        name[len] = 0;
        int fd = memfd_create(name, 0);
        printf("name of %d: %s\n", len, fd < 0 ? error_name(errno) : "ok");
        if (fd >= 0)
            close(fd);
        name[len] = 'n';
    }
    static const char *const odd[] = {"", "a/b", "with space", "line\nfeed", "\x80\xff", "."};
    for (unsigned n = 0; n < sizeof odd / sizeof *odd; n++) {
        int fd = memfd_create(odd[n], MFD_CLOEXEC);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t len = readlink(path, link, sizeof link - 1);
        link[len < 0 ? 0 : len] = 0;
        printf("'%s' is %s, fd flags %d, flags %x\n", odd[n], link, fcntl(fd, F_GETFD), fcntl(fd, F_GETFL));
        close(fd);
    }
    CALL(memfd_create(NULL, 0));
    CALL(memfd_create((char *)1, 0));
    CALL(memfd_create(NULL, 0x20));
    CALL(memfd_create("x", 0x80000000));
    CALL(memfd_create("x", 1U << 26));
    CALL(memfd_create("x", MFD_EXEC | MFD_NOEXEC_SEAL));
}

static void modes(void) {
    int plain = memfd_create("plain", MFD_ALLOW_SEALING), noexec = memfd_create("noexec", MFD_NOEXEC_SEAL);
    show("plain", plain);
    show("noexec", noexec);
    CALL(fchmod(plain, 0600));
    show("changed", plain);
    CALL(fchmod(noexec, 0600));
    CALL(fchmod(noexec, 0700));
    show("noexec changed", noexec);
    CALL(fcntl(plain, F_ADD_SEALS, 0x20));
    printf("not executable: seals %x\n", fcntl(plain, F_GET_SEALS));
    CALL(fchmod(plain, 0755));
    CALL(fchmod(plain, 0644));
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", plain);
    int again = open(path, O_RDONLY);
    printf("reopened: %s\n", again < 0 ? error_name(errno) : "ok");
    CALL(fcntl(again, F_ADD_SEALS, F_SEAL_GROW));
    CALL(ftruncate(again, 5));
    printf("seals by the other: %x\n", fcntl(again, F_GET_SEALS));
    close(again), close(plain), close(noexec);
}

static void holes_of(int fd) {
    static const int whence[] = {SEEK_DATA, SEEK_HOLE};
    struct stat stat;
    fstat(fd, &stat);
    for (unsigned w = 0; w < 2; w++) {
        printf(w ? "hole:" : "data:");
        for (long at_ = -1; at_ <= stat.st_size + 1; at_ += at_ < 0 ? 1 : (long)PAGE / 2) {
            errno = 0;
            long found = lseek(fd, at_, whence[w]);
            if (found < 0)
                printf(" %ld %s", at_, error_name(errno));
            else
                printf(" %ld->%ld", at_, found);
        }
        printf("\n");
    }
}

static void holes(void) {
    int fd = memfd_create("holes", 0);
    holes_of(fd);
    CALL(ftruncate(fd, 8 * PAGE + 100));
    show("empty", fd);
    holes_of(fd);
    printf("write %ld\n", (long)pwrite(fd, "x", 1, 2 * PAGE + 5));
    printf("write %ld\n", (long)pwrite(fd, "xy", 2, 5 * PAGE - 1));
    printf("write %ld\n", (long)pwrite(fd, "z", 1, 8 * PAGE));
    show("written", fd);
    holes_of(fd);
    CALL(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2 * PAGE, PAGE));
    CALL(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4 * PAGE + 10, 10 * PAGE));
    show("punched", fd);
    holes_of(fd);
    char *p = mmap(at(0), 9 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    printf("kept %d, gone %d\n", p[5 * PAGE - 1], p[5 * PAGE]);
    p[PAGE] = 1;
    holes_of(fd);
    CALL(ftruncate(fd, PAGE + 1));
    show("cut", fd);
    CALL(ftruncate(fd, 3 * PAGE));
    holes_of(fd);
    arena_clear();
    close(fd);
}

static void allocation(void) {
    int fd = memfd_create("allocated", 0);
    CALL(fallocate(fd, 0, 0, 3 * PAGE + 1));
    show("allocated", fd);
    holes_of(fd);
    CALL(fallocate(fd, FALLOC_FL_KEEP_SIZE, 8 * PAGE, PAGE));
    show("beyond the end", fd);
    CALL(fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, PAGE));
    CALL(fallocate(fd, FALLOC_FL_ZERO_RANGE, 0, PAGE));
    CALL(fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 0, PAGE));
    CALL(fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, PAGE));
    CALL(fallocate(fd, FALLOC_FL_INSERT_RANGE, 0, PAGE));
    CALL(fallocate(fd, FALLOC_FL_UNSHARE_RANGE, 0, PAGE));
    CALL(fallocate(fd, 0x80, 0, PAGE));
    CALL(fallocate(fd, 0, -1, PAGE));
    CALL(fallocate(fd, 0, 0, 0));
    CALL(fallocate(fd, 0, PAGE, -1));
    CALL(fallocate(fd, 0, 0x7fffffffffffffff, 1));
    CALL(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0x7ffffffffffff000, 0xfff));
    CALL(fallocate(-1, 0, 0, PAGE));
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int reading = open(path, O_RDONLY), ends[2];
    CALL(fallocate(reading, 0, 0, PAGE));
    CALL(ftruncate(reading, 0));
    CALL(ftruncate(fd, -1));
    if (pipe(ends))
        perror("pipe");
    CALL(fallocate(ends[1], 0, 0, PAGE));
    CALL(lseek(ends[1], 0, SEEK_DATA));
    CALL(lseek(fd, 0, 5));
    show("in the end", fd);
    char *p = mmap(at(0), 9 * PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
    peek("allocated", p + 2 * PAGE);
    peek("past the end", p + 8 * PAGE);
    CALL(ftruncate(fd, 10 * PAGE));
    peek("no longer past it", p + 8 * PAGE);
    holes_of(fd);
    arena_clear();
}

int main(void) {
    faults_catch(0);
    arena_open();
    arena_clear();
    names();
    modes();
    holes();
    allocation();
    return 0;
}
