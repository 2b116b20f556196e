/* Mapped files: shared and private, what read and write see, truncation and growth under a mapping, /dev/zero, what a descriptor
 * does not allow. Works in the current directory. */
#include "check.h"

#define RW (PROT_READ | PROT_WRITE)

static void coherent(void) {
    int fd = make_file("files.data", 4 * PAGE);
    char *shared = mmap(NULL, 4 * PAGE, RW, MAP_SHARED, fd, 0);
    char *again = mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, fd, PAGE);
    char *private = mmap(NULL, 4 * PAGE, RW, MAP_PRIVATE, fd, 0);
    char back[8] = {0};
    printf("%c %c %c\n", shared[0], again[0], private[3 * PAGE]);
    strcpy(shared + PAGE, "shared");
    pread(fd, back, 6, PAGE);
    printf("read sees the store: %s, the other mapping too: %s, private too: %s\n", back, again, private + PAGE);
    strcpy(private + PAGE, "privat");
    strcpy(shared + PAGE, "newest");
    pwrite(fd, "WRITE", 5, 2 * PAGE);
    printf("private keeps its copy: %s; a write is seen by all: %.5s %.5s %.5s\n", private + PAGE, shared + 2 * PAGE, again + PAGE, private + 2 * PAGE);
    CALL(msync(shared, 4 * PAGE, MS_SYNC));
    CALL(msync(shared, 4 * PAGE, MS_ASYNC));
    CALL(msync(shared, 4 * PAGE, MS_SYNC | MS_ASYNC));
    CALL(msync(shared + 1, PAGE, MS_SYNC));
    CALL(fsync(fd));
    int other = open("files.data", O_RDONLY);
    memset(back, 0, sizeof back);
    read(other, back, 3);
    pread(other, back + 3, 3, PAGE);
    printf("another descriptor reads %s\n", back);
    close(other);
    mprotect(private, PAGE, PROT_READ);
    poke("read-only private", private, 1);
    CALL(madvise(private + PAGE, PAGE, MADV_DONTNEED));
    printf("a dropped private copy is the file again: %.6s\n", private + PAGE);
    CALL(munmap(again, 2 * PAGE));
    CALL(munmap(shared, 4 * PAGE));
    CALL(munmap(private, 4 * PAGE));
    memset(back, 0, sizeof back);
    pread(fd, back, 6, PAGE);
    printf("after all are gone: %s\n", back);
    close(fd);
}

static void truncation(void) {
    int fd = make_file("files.data", 4 * PAGE);
    char *shared = mmap(NULL, 4 * PAGE, RW, MAP_SHARED, fd, 0);
    char *private = mmap(NULL, 4 * PAGE, RW, MAP_PRIVATE, fd, 0);
    memset(private + PAGE, 'P', PAGE);
    memset(private + 3 * PAGE, 'P', PAGE);
    shared[2 * PAGE] = 'S';
    CALL(ftruncate(fd, PAGE + 100));
    peek("below the new end", shared + PAGE + 99);
    peek("the rest of the last page", shared + PAGE + 100);
    peek("behind it", shared + 2 * PAGE);
    poke("behind it", shared + 3 * PAGE, 1);
    peek("a private copy below the end", private + PAGE + 200);
    peek("a private copy behind the end", private + 3 * PAGE);
    shared[PAGE + 200] = 'x';
    CALL(ftruncate(fd, 4 * PAGE));
    peek("grown: what was stored behind the end", shared + PAGE + 200);
    peek("grown: a page that was cut off", shared + 2 * PAGE);
    peek("grown: private", private + 3 * PAGE);
    CALL(ftruncate(fd, 0));
    peek("empty", shared);
    peek("empty, private copy", private + PAGE);
    struct stat status;
    fstat(fd, &status);
    printf("size %ld\n", (long)status.st_size);
    pwrite(fd, "tail", 4, 3 * PAGE);
    peek("hole", shared + PAGE);
    peek("tail", shared + 3 * PAGE + 3);
    munmap(shared, 4 * PAGE);
    munmap(private, 4 * PAGE);
    CALL(truncate("files.data", 5));
    CALL(ftruncate(fd, -1));
    close(fd);
}

static void refused(void) {
    int fd = make_file("files.data", PAGE);
    close(fd);
    int reader = open("files.data", O_RDONLY), writer = open("files.data", O_WRONLY), append = open("files.data", O_RDWR | O_APPEND);
    arena_clear();
    MAP(mmap(at(0), PAGE, RW, MAP_SHARED | MAP_FIXED, reader, 0));
    MAP(mmap(at(0), PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, writer, 0));
    MAP(mmap(at(0), PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, writer, 0));
    MAP(mmap(at(0), PAGE, RW, MAP_SHARED | MAP_FIXED, append, 0));
    MAP(mmap(at(1), PAGE, RW, MAP_PRIVATE | MAP_FIXED, reader, 0));
    MAP(mmap(at(2), PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, reader, 0));
    CALL(mprotect(at(2), PAGE, RW));
    CALL(mprotect(at(1), PAGE, RW | PROT_EXEC));
    MAP(mmap(at(3), PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, reader, -PAGE));
    MAP(mmap(at(3), 2 * PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, reader, 1UL << 62));
    MAP(mmap(at(4), PAGE, PROT_READ, MAP_SHARED_VALIDATE | MAP_FIXED, reader, 0));
    MAP(mmap(at(5), PAGE, PROT_READ, MAP_SHARED_VALIDATE | MAP_FIXED | (1 << 24), reader, 0));
    MAP(mmap(at(6), PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED | MAP_GROWSDOWN, reader, 0));
    int directory = open(".", O_RDONLY), pipes[2];
    MAP(mmap(at(7), PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, directory, 0));
    if (pipe(pipes) == 0)
        MAP(mmap(at(7), PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, pipes[0], 0));
    CALL(ftruncate(reader, 0));
    show_arena("files");
    close(reader);
    close(writer);
    peek("the descriptor is closed, the mapping stays", at(2));
    CALL(unlink("files.data"));
    peek("the file is gone, the mapping stays", at(2));
    show_arena("deleted");
    CALL(mprotect(at(4), PAGE, PROT_NONE));
    CALL(munmap(at(1), PAGE));
}

static void devices(void) {
    arena_clear();
    int zero = open("/dev/zero", O_RDWR), null = open("/dev/null", O_RDWR), full = open("/dev/full", O_RDWR);
    MAP(mmap(at(0), 2 * PAGE, RW, MAP_PRIVATE | MAP_FIXED, zero, 0));
    MAP(mmap(at(2), 2 * PAGE, RW, MAP_SHARED | MAP_FIXED, zero, 0));
    MAP(mmap(at(4), 2 * PAGE, RW, MAP_SHARED | MAP_FIXED, zero, PAGE));
    poke("private zero", at(0), 3);
    poke("shared zero", at(3), 4);
    poke("shared zero from an offset", at(5), 4);
    peek("private zero", at(0));
    peek("shared zero", at(3));
    peek("shared zero from an offset", at(4));
    char buffer[16] = "xxxxxxxxxxxxxxx";
    long got = read(zero, buffer, 16);
    printf("read zero %ld, first %d\n", got, buffer[0]);
    printf("write zero %ld\n", (long)write(zero, buffer, 16));
    printf("read null %ld\n", (long)read(null, buffer, 16));
    printf("write null %ld\n", (long)write(null, buffer, 16));
    CALL(write(full, buffer, 16));
    MAP(mmap(at(8), PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, null, 0));
    show_arena("devices");
}

static void vectors(void) {
    int fd = open("files.data", O_RDWR | O_CREAT | O_TRUNC, 0600);
    CALL(ftruncate(fd, 64 * PAGE));
    char *p = mmap(NULL, 64 * PAGE, RW, MAP_SHARED, fd, 0);
    for (int i = 0; i < 64; i++)
        memset(p + (unsigned long)i * PAGE, i, PAGE);
    unsigned long sum = 0;
    static unsigned char buffer[10000];
    for (long got, offset = 0; (got = pread(fd, buffer, sizeof buffer, offset)) > 0; offset += got)
        for (long i = 0; i < got; i++)
            sum += buffer[i];
    printf("sum through read %lu\n", sum);
    printf("write from the mapping to itself: %ld\n", (long)pwrite(fd, p + 10 * PAGE, 20 * PAGE + 5, 30 * (long)PAGE + 7));
    printf("%d %d %d\n", p[30 * PAGE + 6], p[30 * PAGE + 7], p[50 * PAGE]);
    printf("read into the mapping: %ld\n", (long)pread(fd, p + 60 * PAGE, PAGE, 5 * PAGE));
    printf("%d %d\n", p[60 * PAGE], p[61 * PAGE]);
    munmap(p, 64 * PAGE);
    close(fd);
    unlink("files.data");
}

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    arena_open();
    faults_catch(0);
    coherent();
    truncation();
    refused();
    devices();
    vectors();
    return 0;
}
