/* Prints what /proc/self says of memory in known situations: smaps, smaps_rollup, pagemap, clear_refs, statm, status, numa_maps, and the requests
 * PAGEMAP_SCAN and PROCMAP_QUERY. Addresses are told in pages from an arena; what depends on the machine is left out. Soft-dirty too: a kernel may
 * be built without. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096UL
#define PAGES 4096UL
static char *arena;

static char *at(long page) { return arena + page * PAGE; }

static char *map(long page, long pages, int prot, int flags, int fd)
{
    char *got = mmap(at(page), pages * PAGE, prot, flags | MAP_FIXED, fd, 0);
    if (got != at(page))
        printf("mmap: %s\n", strerror(errno));
    return got;
}

static long pages_of(uint64_t address)
{
    return ((long)address - (long)arena) / (long)PAGE;
}

static int in_arena(unsigned long start)
{
    return start >= (unsigned long)arena && start < (unsigned long)at(PAGES);
}

/* Lines of a file of /proc/self about the mappings of the arena. */
static void show(const char *what, const char *name, int all)
{
    char path[64], line[4096];
    snprintf(path, sizeof path, "/proc/self/%s", name);
    FILE *file = fopen(path, "r");
    int on = 0;
    printf("## %s: %s\n", what, name);
    while (fgets(line, sizeof line, file)) {
        unsigned long start, end;
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2 && strchr(line, '-')) {
            on = in_arena(start);
            if (on)
                printf("%ld..%ld\n", pages_of(start), pages_of(end));
            continue;
        }
        char *soft = strstr(line, "sd ");
        if (!strncmp(line, "VmFlags", 7) && soft)
            memmove(soft, soft + 3, strlen(soft + 3) + 1);
        if (on && (all || !strstr(line, "  0 kB")))
            fputs(line, stdout);
    }
    fclose(file);
}

static void smaps(const char *what) { show(what, "smaps", 0); }

static void pagemap(const char *what, long page, int count)
{
    uint64_t words[64];
    int fd = open("/proc/self/pagemap", O_RDONLY);
    printf("pagemap %s: %zd", what, pread(fd, words, count * 8, (uint64_t)at(page) / PAGE * 8));
    for (int n = 0; n < count; n++) {
        unsigned long number = words[n] & ((1UL << 55) - 1);
        printf(" %03lx", words[n] >> 55 & ~1UL);
        if (words[n] >> 62 & 1)
            printf(".%lx", number);
        else if (geteuid() == 0 && words[n] >> 56 & 0x21)
            printf(number ? ".p" : ".0");
    }
    puts("");
    close(fd);
}

static void numa_maps(const char *what)
{
    char line[4096];
    FILE *file = fopen("/proc/self/numa_maps", "r");
    printf("## numa_maps %s\n", what);
    while (fgets(line, sizeof line, file)) {
        char *rest;
        unsigned long start = strtoul(line, &rest, 16);
        char *active = strstr(rest, " active=");
        if (active)
            memmove(active, strchr(active + 1, ' '), strlen(strchr(active + 1, ' ')) + 1);
        if (in_arena(start))
            printf("%ld%s", pages_of(start), rest);
        else if (strstr(rest, "heap") || strstr(rest, "stack"))
            printf("%.14s\n", rest);
    }
    fclose(file);
}

/* ---- PAGEMAP_SCAN ---- */
struct region { uint64_t start, end, categories; };
struct scan { uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages, inverted, mask, any, told; };
#define SCAN _IOWR('f', 16, struct scan)
static struct region regions[64];

static void scan(const char *what, struct scan arg)
{
    int fd = open("/proc/self/pagemap", O_RDONLY);
    memset(regions, 0, sizeof regions);
    if (!arg.size)
        arg.size = sizeof arg;
    if (arg.vec == 1)
        arg.vec = (uint64_t)regions;
    arg.walk_end = (uint64_t)at(-1);
    errno = 0;
    long result = ioctl(fd, SCAN, &arg);
    printf("scan %s: %ld %s walk_end %ld", what, result, result < 0 ? strerrorname_np(errno) : "", pages_of(arg.walk_end));
    for (int n = 0; n < 64 && regions[n].end; n++)
        printf(" [%ld..%ld %lx]", pages_of(regions[n].start), pages_of(regions[n].end), regions[n].categories & ~0x80UL);
    puts("");
    close(fd);
}
#define IN(s, e) .start = (uint64_t)at(s), .end = (uint64_t)at(e)
#define ROOM .vec = 1, .vec_len = 64
/* All categories but soft-dirty. */
#define ALL 0x17f

static void scans(void)
{
    scan("all", (struct scan){IN(0, 1600), ROOM, .told = ALL});
    scan("present", (struct scan){IN(0, 1600), ROOM, .mask = 8, .told = ALL});
    scan("not present", (struct scan){IN(0, 1600), ROOM, .mask = 8, .inverted = 8, .told = 8});
    scan("file or swapped", (struct scan){IN(0, 1600), ROOM, .any = 0x14, .told = ALL});
    scan("written", (struct scan){IN(0, 1600), ROOM, .mask = 2, .told = 2});
    scan("guard", (struct scan){IN(0, 1600), ROOM, .mask = 0x100, .told = ALL});
    scan("zero page", (struct scan){IN(0, 1600), ROOM, .mask = 0x20, .told = ALL});
    scan("wp allowed", (struct scan){IN(0, 1600), ROOM, .mask = 1, .told = ALL});
    scan("wp not allowed", (struct scan){IN(0, 1600), ROOM, .mask = 1, .inverted = 1, .told = 8});
    scan("huge", (struct scan){IN(0, 1600), ROOM, .mask = 0x40, .told = ALL});
    scan("told nothing", (struct scan){IN(0, 1600), ROOM});
    for (int room = 1; room <= 4; room++)
        scan("little room", (struct scan){IN(0, 1600), .vec = 1, .vec_len = room, .mask = 8, .told = 8});
    for (int most = 1; most <= 6; most++)
        scan("few pages", (struct scan){IN(0, 1600), ROOM, .max_pages = most, .mask = 8, .told = 8});
    scan("few pages of a hole", (struct scan){IN(0, 1600), ROOM, .max_pages = 5, .mask = 8, .inverted = 8, .told = 8});
    scan("no room", (struct scan){IN(0, 1600), .mask = 8, .told = 8, .max_pages = 2});
    scan("room of nothing", (struct scan){IN(0, 1600), .vec = 1, .mask = 8, .told = 8});
    scan("nowhere", (struct scan){IN(0, 1600), .vec_len = 3, .mask = 8, .told = 8});
    scan("size 8", (struct scan){.size = 8, IN(0, 1600), ROOM, .mask = 8, .told = 8});
    scan("size 104", (struct scan){.size = 104, IN(0, 1600), ROOM, .mask = 8, .told = 8});
    scan("flag 4", (struct scan){.flags = 4, IN(0, 1600), ROOM, .mask = 8, .told = 8});
    scan("protect", (struct scan){.flags = 1, IN(0, 1600), ROOM, .mask = 8, .told = 8});
    scan("check", (struct scan){.flags = 2, IN(0, 1600), ROOM, .mask = 8, .told = 8});
    scan("check a gap", (struct scan){.flags = 2, IN(0, 8), ROOM, .mask = 8, .told = 8});
    scan("unknown categories", (struct scan){IN(0, 1600), ROOM, .mask = 0x200});
    scan("unknown categories", (struct scan){IN(0, 1600), ROOM, .inverted = 0x200});
    scan("unknown categories", (struct scan){IN(0, 1600), ROOM, .any = 0x200});
    scan("unknown categories", (struct scan){IN(0, 1600), ROOM, .told = 0x200});
    scan("start unaligned", (struct scan){.start = (uint64_t)arena + 1, .end = (uint64_t)at(64), ROOM, .mask = 8, .told = 8});
    scan("end unaligned", (struct scan){.start = (uint64_t)arena, .end = (uint64_t)at(16) + 1, ROOM, .mask = 8, .told = 8});
    scan("backwards", (struct scan){IN(64, 0), ROOM, .mask = 8, .told = 8});
    scan("empty", (struct scan){IN(16, 16), ROOM, .mask = 8, .told = 8});
    scan("to the end of all", (struct scan){.start = (uint64_t)arena, .end = -1UL, ROOM, .mask = 8, .told = 8});
    scan("bad room", (struct scan){IN(0, 1600), .vec = 16, .vec_len = 64, .mask = 8, .told = 8});
    scan("bad room, nothing found", (struct scan){IN(0, 8), .vec = 16, .vec_len = 64, .mask = 8, .told = 8});
    scan("room too large", (struct scan){IN(0, 1600), .vec = 1, .vec_len = 1UL << 60, .mask = 8, .told = 8});
    int fd = open("/proc/self/pagemap", O_RDONLY);
    printf("bad structure: %d", ioctl(fd, SCAN, 16));
    printf(" %s\n", strerrorname_np(errno));
    printf("unknown request: %d", ioctl(fd, _IOWR('f', 99, struct scan), regions));
    printf(" %s\n", strerrorname_np(errno));
    close(fd);
}

/* ---- PROCMAP_QUERY ---- */
struct query {
    uint64_t size, flags, addr, start, end, vma_flags, page, offset, inode;
    uint32_t major, minor, name_size, id_size;
    uint64_t name, id;
};
#define QUERY _IOWR('f', 17, struct query)
static char name[256];
static unsigned char id[64];

static void query(const char *what, struct query arg)
{
    int fd = open("/proc/self/maps", O_RDONLY);
    memset(name, '~', sizeof name - 1);
    memset(id, 0xee, sizeof id);
    if (!arg.size)
        arg.size = sizeof arg;
    if (arg.name == 1)
        arg.name = (uint64_t)name;
    if (arg.id == 1)
        arg.id = (uint64_t)id;
    errno = 0;
    long result = ioctl(fd, QUERY, &arg);
    printf("query %s: %ld %s", what, result, result ? strerrorname_np(errno) : "");
    if (!result) {
        if (in_arena(arg.start))
            printf(" %ld..%ld", pages_of(arg.start), pages_of(arg.end));
        printf(" flags %lx page %lu offset %lx file %d name %u id %u", arg.vma_flags, arg.page, arg.offset, arg.inode != 0, arg.name_size, arg.id_size);
        if (arg.name)
            printf(" '%.40s'", name);
        for (unsigned n = 0; arg.id && n < arg.id_size; n++)
            printf("%s%02x", n ? "" : " ", id[n]);
    }
    puts("");
    close(fd);
}
#define NAME .name = 1, .name_size = 256
#define ID .id = 1, .id_size = 64

static void queries(void)
{
    uint64_t anon = (uint64_t)at(16), shm = (uint64_t)at(40), exe = (uint64_t)at(64), gap = (uint64_t)at(8);
    query("anonymous", (struct query){.addr = anon + PAGE, NAME, ID});
    query("gap", (struct query){.addr = gap});
    query("next of a gap", (struct query){.addr = gap, .flags = 0x10});
    query("next file", (struct query){.addr = gap, .flags = 0x30, NAME});
    query("file, at anonymous", (struct query){.addr = anon, .flags = 0x20});
    query("next executable", (struct query){.addr = gap, .flags = 0x14, ID});
    query("next shared", (struct query){.addr = gap, .flags = 0x18, NAME});
    query("shared", (struct query){.addr = shm, .flags = 8, NAME});
    query("executable, at shared", (struct query){.addr = shm, .flags = 4});
    query("beyond all", (struct query){.addr = 0x7ffffffff000, .flags = 0x10});
    query("vsyscall", (struct query){.addr = 0xffffffffff600000, .flags = 0x10});
    query("flag 0x40", (struct query){.addr = anon, .flags = 0x40});
    uint64_t sizes[] = {8, 16, 23, 24, 40, 48, 88, 96, 5000};
    for (int n = 0; n < 9; n++)
        query("size", (struct query){.size = sizes[n], .addr = anon, NAME});
    for (int n = 0; n < 8; n++)
        query("size, no name", (struct query){.size = sizes[n], .addr = anon});
    query("name without room", (struct query){.addr = exe, .name = 1});
    query("room without name", (struct query){.addr = exe, .name_size = 256});
    query("little room", (struct query){.addr = shm, .name = 1, .name_size = 4});
    query("room but for the NUL", (struct query){.addr = shm, .name = 1, .name_size = 19});
    query("just room", (struct query){.addr = shm, .name = 1, .name_size = 20});
    query("much room", (struct query){.addr = shm, .name = 1, .name_size = 1 << 20});
    query("bad room", (struct query){.addr = shm, .name = 16, .name_size = 256});
    query("id", (struct query){.addr = exe, ID});
    query("id without room", (struct query){.addr = exe, .id = 1});
    query("room without id", (struct query){.addr = exe, .id_size = 20});
    query("little room for an id", (struct query){.addr = exe, .id = 1, .id_size = 19});
    query("just room for an id", (struct query){.addr = exe, .id = 1, .id_size = 20});
    query("bad room for an id", (struct query){.addr = exe, .id = 16, .id_size = 64});
    query("id of no program", (struct query){.addr = (uint64_t)at(1200), ID});
    query("heap", (struct query){.addr = (uint64_t)sbrk(0) - 1, NAME});
    query("little room for heap", (struct query){.addr = (uint64_t)sbrk(0) - 1, .name = 1, .name_size = 6});
    query("stack", (struct query){.addr = (uint64_t)&anon, NAME});
    struct { struct query known; uint64_t more[4]; } large = {.known = {.size = sizeof large, .addr = anon}};
    int fd = open("/proc/self/maps", O_RDONLY);
    printf("larger: %d\n", ioctl(fd, QUERY, &large));
    large.more[2] = 1;
    printf("larger with more: %d", ioctl(fd, QUERY, &large));
    printf(" %s\n", strerrorname_np(errno));
    printf("bad structure: %d", ioctl(fd, QUERY, 16));
    printf(" %s\n", strerrorname_np(errno));
    close(fd);
    fd = open("/proc/self/smaps", O_RDONLY);
    printf("of smaps: %d", ioctl(fd, QUERY, &large));
    printf(" %s\n", strerrorname_np(errno));
    close(fd);
}

static void clear_refs(const char *what)
{
    int fd = open("/proc/self/clear_refs", O_WRONLY);
    long written = write(fd, what, strlen(what));
    printf("clear_refs '%s': %ld %s\n", what, written, written < 0 ? strerrorname_np(errno) : "");
    close(fd);
}

static long figure(const char *file, const char *key)
{
    char path[64], line[512];
    long value = -1;
    snprintf(path, sizeof path, "/proc/self/%s", file);
    FILE *from = fopen(path, "r");
    while (fgets(line, sizeof line, from))
        if (!strncmp(line, key, strlen(key)) && line[strlen(key)] == ':')
            sscanf(line + strlen(key) + 1, "%ld", &value);
    fclose(from);
    return value;
}

static void offsets(void)
{
    uint64_t words[8];
    int fd = open("/proc/self/pagemap", O_RDONLY);
    struct { long offset, size; } cases[] = {{1, 8}, {0, 4}, {0, 0}, {1, 0}, {0, 64}, {1L << 60, 8}};
    for (int n = 0; n < 6; n++) {
        errno = 0;
        long got = pread(fd, words, cases[n].size, cases[n].offset);
        printf("pagemap at %ld, %ld bytes: %ld %s\n", cases[n].offset, cases[n].size, got, got < 0 ? strerrorname_np(errno) : "");
    }
    close(fd);
}

int main(void)
{
    setvbuf(stdout, NULL, _IOFBF, 1 << 20);
    long share = figure("smaps_rollup", "Pss_Shmem");
    arena = mmap(NULL, PAGES * PAGE + (4UL << 20), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    munmap(arena, PAGES * PAGE + (4UL << 20));
    arena = (char *)(((uint64_t)arena + (2UL << 20) - 1) & ~((2UL << 20) - 1));
    volatile char seen;

    char *anon = map(16, 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    anon[0] = anon[PAGE] = anon[5 * PAGE] = 1;
    seen = anon[3 * PAGE];
    madvise(anon + 6 * PAGE, PAGE, 102);
    char *shm = map(40, 8, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
    seen = shm[0];
    shm[4 * PAGE] = 1;
    int exe = open("/proc/self/exe", O_RDONLY);
    fsync(exe);
    char *code = map(64, 2, PROT_READ | PROT_EXEC, MAP_PRIVATE, exe);
    seen = code[0];
    /* Page-table pages that are there and that are not. */
    char *wide = map(512, 600, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
    wide[0] = 1;
    int plain = memfd_create("plain file", 0);
    ftruncate(plain, 8 * PAGE);
    pwrite(plain, "some text", 9, PAGE);
    char *file = map(1200, 8, PROT_READ | PROT_WRITE, MAP_SHARED, plain);
    char *copy = map(1300, 8, PROT_READ | PROT_WRITE, MAP_PRIVATE, plain);

    show("at first", "smaps", 1);
    pagemap("anonymous", 16, 8);
    pagemap("shared", 40, 8);
    pagemap("gap", 34, 3);
    offsets();
    scans();
    queries();

    shm[0] = 1;
    madvise(shm, 8 * PAGE, MADV_DONTNEED);
    smaps("shared memory unmapped");
    for (int n = 0; n < 8; n++)
        seen = shm[n * PAGE];
    smaps("and read again");
    seen = file[PAGE];
    file[2 * PAGE] = 1;
    seen = copy[PAGE];
    copy[3 * PAGE] = 1;
    copy[2 * PAGE] = 2;
    smaps("a file in memory, mapped twice");
    pagemap("shared file", 1200, 4);
    pagemap("private file", 1300, 4);
    mprotect(anon, 16 * PAGE, PROT_NONE);
    smaps("no access");
    pagemap("no access", 16, 8);
    mprotect(anon, 16 * PAGE, PROT_READ | PROT_WRITE);
    mlock(anon, 2 * PAGE);
    map(100, 4, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_NORESERVE, -1);
    map(120, 4, PROT_READ | PROT_WRITE, 8 | MAP_ANONYMOUS, -1)[0] = 1;
    madvise(map(140, 4, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1), PAGE, MADV_DONTFORK);
    madvise(map(160, 4, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1), PAGE, MADV_DONTDUMP);
    madvise(map(180, 4, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1), PAGE, MADV_WIPEONFORK);
    madvise(map(200, 4, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1), PAGE, MADV_SEQUENTIAL);
    madvise(map(220, 4, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1), PAGE, MADV_RANDOM);
    smaps("flags");
    numa_maps("of all");

    clear_refs("0");
    clear_refs("6");
    clear_refs("x");
    clear_refs("-1");
    clear_refs(" 3\n");
    clear_refs("1");
    clear_refs("5");
    long peak = figure("status", "VmHWM"), resident = figure("status", "VmRSS");
    printf("peak is resident: %d\n", peak >= resident && peak <= resident + 64);
    anon[0] = 2;
    smaps("after clear_refs");
    clear_refs("4");

    long size = figure("status", "VmSize"), data = figure("status", "VmData"), lock = figure("status", "VmLck");
    long shmem = figure("status", "RssShmem");
    char *more = map(2000, 100, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    memset(more, 1, 50 * PAGE);
    printf("VmSize %+ld VmData %+ld VmLck %+ld RssShmem %+ld\n", figure("status", "VmSize") - size, figure("status", "VmData") - data,
           figure("status", "VmLck") - lock, figure("status", "RssShmem") - shmem);
    unsigned long statm[7];
    FILE *from = fopen("/proc/self/statm", "r");
    for (int n = 0; n < 7; n++)
        fscanf(from, "%lu", &statm[n]);
    fclose(from);
    printf("statm agrees: %d %d %d\n", statm[0] * 4 == figure("status", "VmSize"), statm[4] == 0 && statm[6] == 0,
           statm[5] * 4 == figure("status", "VmData") + figure("status", "VmStk"));
    long sum = figure("smaps_rollup", "Private_Dirty") + figure("smaps_rollup", "Private_Clean") +
               figure("smaps_rollup", "Shared_Dirty") + figure("smaps_rollup", "Shared_Clean");
    printf("rollup adds up: %d, shared memory %ld kB, locked %ld kB, anonymous is %d\n", sum == figure("smaps_rollup", "Rss"),
           figure("smaps_rollup", "Pss_Shmem") - share, figure("smaps_rollup", "Locked"),
           figure("smaps_rollup", "Pss_Anon") == figure("smaps_rollup", "Anonymous"));
    from = fopen("/proc/self/smaps_rollup", "r");
    char line[512];
    fgets(line, sizeof line, from);
    printf("rollup header:%s", strchr(line, ' '));
    while (fgets(line, sizeof line, from))
        printf("%.16s\n", line);
    fclose(from);
    return 0;
}
