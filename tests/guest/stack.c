/* A stack that grows to near its limit, past it with a handler on another stack, and past it without. */
#include "check.h"

static char other_stack[65536];
static unsigned long stack_end;

static unsigned long find_stack(unsigned long *start) {
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[4600];
    unsigned long from = 0, to = 0;
    while (maps && fgets(line, sizeof line, maps)) {
        if (strstr(line, "[stack]") && sscanf(line, "%lx-%lx", &from, &to) == 2 && start)
            *start = from;
    }
    if (maps)
        fclose(maps);
    return to;
}

/* Recurses until `bytes` of stack are in use, then returns the sum of what each frame wrote. */
__attribute__((noinline)) static unsigned long descend(unsigned long bytes, unsigned long depth) {
    volatile char frame[2000];
    memset((char *)frame, (int)depth, sizeof frame);
    unsigned long used = stack_end - (unsigned long)frame;
    unsigned long below = used < bytes ? descend(bytes, depth + 1) : 0;
    return below + (unsigned char)frame[0] + (unsigned char)frame[1999];
}

/* Touches the stack page by page from where it is downwards, without end. */
__attribute__((noinline)) static void walk_down(void) {
    volatile char *p = (volatile char *)((unsigned long)__builtin_frame_address(0) & ~(PAGE - 1));
    for (;;) {
        p -= PAGE;
        *p = 1;
    }
}

int main(int argc, char **argv) {
    struct rlimit limit;
    getrlimit(RLIMIT_STACK, &limit);
    if (limit.rlim_cur > 64UL << 20) {
        limit.rlim_cur = 8UL << 20;
        setrlimit(RLIMIT_STACK, &limit);
    }
    unsigned long start = 0;
    stack_end = find_stack(&start);
    const char *mode = argc > 1 ? argv[1] : "near";
    setvbuf(stdout, NULL, _IONBF, 0);
    printf("limit %lu, stack grown at start: %s\n", (unsigned long)limit.rlim_cur, stack_end - start <= 256 * 1024 ? "little" : "much");
    if (!strcmp(mode, "near")) {
        unsigned long bytes = limit.rlim_cur - 64 * 1024;
        printf("sum is right: %d\n", descend(bytes, 0) != 0);
        find_stack(&start);
        printf("grown to within 64k of the limit: %d, not past it: %d\n", stack_end - start >= bytes, stack_end - start <= limit.rlim_cur);
        return 0;
    }
    if (!strcmp(mode, "jump")) {
        volatile char *far = (volatile char *)__builtin_frame_address(0) - limit.rlim_cur / 2;
        *far = 42;
        find_stack(&start);
        printf("a far touch grew it at once: %d value %d\n", start <= (unsigned long)far, *far);
        return 0;
    }
    if (!strcmp(mode, "caught")) {
        stack_t stack = {.ss_sp = other_stack, .ss_size = sizeof other_stack};
        sigaltstack(&stack, NULL);
        faults_catch(SA_ONSTACK);
        TRY(walk_down());
        unsigned long page = (unsigned long)fault.addr & ~(PAGE - 1);
        printf("%s at the first page past the limit: %d\n", fault_name(), stack_end - page == limit.rlim_cur + PAGE);
        find_stack(&start);
        printf("stack grown to the limit exactly: %d\n", stack_end - start == limit.rlim_cur);
        TRY(walk_down());
        printf("%s again\n", fault_name());
        return 0;
    }
    walk_down();
    return 9;
}
