/* Faults as signals: si_code, si_addr and the context that a handler sees; leaving a handler by return and by siglongjmp; signals
 * that a program sends itself; what dies of what. */
#include "check.h"

static volatile int seen;
static volatile sig_atomic_t order[8];
static volatile int ordered;

static void count(int signal) {
    seen++;
    if (ordered < 8)
        order[ordered++] = signal;
}

static void opens_page(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    seen++;
    mprotect((void *)((unsigned long)info->si_addr & ~(PAGE - 1)), PAGE, PROT_READ | PROT_WRITE);
}

static void skips(int signal, siginfo_t *info, void *context) {
    greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
    printf("signal %d code %d trap %lld address is rip: %d\n", signal, info->si_code, (long long)regs[REG_TRAPNO],
           info->si_addr == (void *)regs[REG_RIP]);
    regs[REG_RIP] = regs[REG_RBX];
}

static void set_handler(int signal, void (*handler)(int, siginfo_t *, void *), int flags) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags};
    sigemptyset(&action.sa_mask);
    sigaction(signal, &action, NULL);
}

static void access_faults(void) {
    arena_clear();
    mmap(at(1), PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    mmap(at(2), PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    mmap(at(3), PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    mmap(at(4), PAGE, PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    peek("nothing mapped", at(0));
    poke("nothing mapped", at(0) + 7, 1);
    peek("read-only", at(1) + 123);
    poke("read-only", at(1) + 123, 1);
    peek("no access", at(2) + 1);
    poke("no access", at(2) + 2, 1);
    poke("read-write", at(3), 0x5a);
    poke("write-only", at(4), 1);
    peek("write-only", at(4));
    TRY(((void (*)(void))at(3))());
    show_fault("call of a page that is not executable", at(3));
    TRY(((void (*)(void))at(0))());
    show_fault("call of nothing", at(0));
    *at(3) = (char)0xc3;
    mprotect(at(3), PAGE, PROT_READ | PROT_EXEC);
    TRY(((void (*)(void))at(3))());
    show_fault("call of ret", at(3));
    peek("null", NULL);
    poke("null + 8", (char *)8, 1);
    TRY(*(volatile char *)0x8000000000001234UL);
    printf("not canonical: %s address %p\n", fault_name(), fault.addr);
    TRY(*(volatile char *)0xffffffffff700000UL);
    printf("kernel half: %s address %p\n", fault_name(), fault.addr);
    volatile uint64_t *across = (volatile uint64_t *)(at(1) - 4);
    TRY((void)*across);
    show_fault("read across into a hole below", across);
    across = (volatile uint64_t *)(at(2) - 4);
    TRY((void)*across);
    printf("read across into no access: %s address at the page %d\n", fault_name(), fault.addr == at(2));
    TRY(memset(at(3), 1, PAGE));
    show_fault("rep store into what became read-only", at(3));
}

static void file_faults(void) {
    int fd = make_file("signals.data", 5000);
    char *p = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    peek("first page", p);
    peek("the file's last byte", p + 4999);
    peek("behind the end, same page", p + 5000);
    peek("behind the end, next page", p + 2 * PAGE + 5);
    poke("behind the end, next page", p + 3 * PAGE + 5, 1);
    char *q = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    poke("private, behind the end", q + 2 * PAGE, 1);
    peek("private, behind the end", q + 3 * PAGE);
    CALL(ftruncate(fd, 3 * PAGE));
    peek("after the file grew", p + 2 * PAGE + 5);
    peek("still behind the end", p + 3 * PAGE);
    munmap(p, 4 * PAGE);
    munmap(q, 4 * PAGE);
    close(fd);
    unlink("signals.data");
}

static void kernel_copies(void) {
    int fd[2];
    if (pipe(fd))
        exit(2);
    arena_clear();
    mmap(at(1), PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    mmap(at(2), PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    CALL(write(fd[1], at(0), 8));
    CALL(write(fd[1], at(2), 8));
    printf("write that begins well and ends badly: %ld\n", (long)write(fd[1], at(1) + PAGE - 5, 10));
    CALL(write(fd[1], "12345678", 8) == 8 ? 0 : -1);
    CALL(read(fd[0], at(0), 4));
    CALL(read(fd[0], (void *)0xffff800000000000UL, 4));
    CALL(open((const char *)at(0), O_RDONLY));
    CALL(syscall(SYS_uname, at(0)));
    CALL(syscall(SYS_getcwd, at(1), PAGE));
    CALL(syscall(SYS_rt_sigaction, SIGUSR1, at(0), NULL, 8));
    close(fd[0]);
    close(fd[1]);
}

static void returns(void) {
    arena_clear();
    mmap(at(0), 64 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    set_handler(SIGSEGV, opens_page, 0);
    seen = 0;
    for (int i = 0; i < 64; i++)
        *(volatile char *)(at((unsigned long)i) + i) = (char)i;
    int right = 0;
    for (int i = 0; i < 64; i++)
        right += at((unsigned long)i)[i] == i;
    printf("handler opened %d pages, %d right\n", seen, right);
    show_arena("opened one by one");

    mprotect(at(0), 16 * PAGE, PROT_NONE);
    seen = 0;
    double x[4] = {1.5, 2.5, 3.5, 4.5};
    double y = 0;
    for (int i = 0; i < 16; i++) {
        *(volatile double *)at((unsigned long)i) = x[i & 3];
        y += x[i & 3] * *(volatile double *)at((unsigned long)i);
    }
    printf("floating point lives through %d handlers: %.3f\n", seen, y);
    faults_catch(0);

    int jumps = 0;
    for (int i = 0; i < 1000; i++) {
        TRY(*(volatile char *)8 = 1);
        jumps += fault.signal == SIGSEGV && fault.code == SEGV_MAPERR && fault.addr == (void *)8;
    }
    printf("left the handler by siglongjmp %d times\n", jumps);
    sigset_t now;
    sigprocmask(SIG_BLOCK, NULL, &now);
    printf("SIGSEGV blocked afterwards: %d\n", sigismember(&now, SIGSEGV));
}

static void on_other_stack(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)info, (void)context;
    stack_t stack;
    sigaltstack(NULL, &stack);
    char here;
    int inside = &here >= (char *)stack.ss_sp && &here < (char *)stack.ss_sp + stack.ss_size;
    printf("on the other stack: %d, told so: %d\n", inside, (stack.ss_flags & SS_ONSTACK) != 0);
    CALL(sigaltstack(&stack, NULL));
    siglongjmp(fault_out, 1);
}

static void other_stack(void) {
    static char memory[32768];
    stack_t stack = {.ss_sp = memory, .ss_size = sizeof memory};
    CALL(sigaltstack(&stack, NULL));
    stack_t small = {.ss_sp = memory, .ss_size = 100};
    CALL(sigaltstack(&small, NULL));
    set_handler(SIGSEGV, on_other_stack, SA_ONSTACK);
    if (sigsetjmp(fault_out, 1) == 0)
        *(volatile char *)16 = 1;
    stack_t off = {.ss_flags = SS_DISABLE};
    CALL(sigaltstack(&off, NULL));
    faults_catch(0);
}

static void exceptions(void) {
    set_handler(SIGFPE, skips, 0);
    set_handler(SIGILL, skips, 0);
    set_handler(SIGTRAP, skips, 0);
    long low = 1, high = 0;
    __asm__ volatile("lea 1f(%%rip), %%rbx\n\tidivq %%rcx\n1:" : "+a"(low), "+d"(high) : "c"(0L) : "rbx", "cc");
    __asm__ volatile("lea 1f(%%rip), %%rbx\n\tud2\n1:" : : : "rbx");
    __asm__ volatile("lea 1f(%%rip), %%rbx\n\tint3\n1:" : : : "rbx");
    set_handler(SIGSEGV, skips, 0);
    __asm__ volatile("lea 1f(%%rip), %%rbx\n\thlt\n1:" : : : "rbx");
    faults_catch(0);
}

static void sent(void) {
    signal(SIGUSR1, count);
    signal(SIGUSR2, count);
    seen = ordered = 0;
    raise(SIGUSR1);
    kill(getpid(), SIGUSR2);
    printf("raised: %d\n", seen);
    sigset_t block, old, pending;
    sigemptyset(&block);
    sigaddset(&block, SIGUSR1);
    sigaddset(&block, SIGUSR2);
    sigprocmask(SIG_BLOCK, &block, &old);
    seen = ordered = 0;
    raise(SIGUSR2);
    raise(SIGUSR1);
    raise(SIGUSR1);
    sigpending(&pending);
    printf("blocked: %d, pending %d %d\n", seen, sigismember(&pending, SIGUSR1), sigismember(&pending, SIGUSR2));
    sigprocmask(SIG_SETMASK, &old, NULL);
    printf("let through: %d\n", seen);
    signal(SIGUSR1, SIG_IGN);
    raise(SIGUSR1);
    printf("ignored\n");
    CALL(kill(getpid(), 65));
    CALL(sigaction(SIGKILL, &(struct sigaction){.sa_handler = count}, NULL));
}

static int die(const char *how) {
    if (!strcmp(how, "segv"))
        *(volatile char *)4 = 1;
    if (!strcmp(how, "blocked")) {
        sigset_t block;
        sigemptyset(&block);
        sigaddset(&block, SIGSEGV);
        sigprocmask(SIG_BLOCK, &block, NULL);
        faults_catch(0);
        *(volatile char *)4 = 1;
    }
    if (!strcmp(how, "ignored")) {
        signal(SIGSEGV, SIG_IGN);
        *(volatile char *)4 = 1;
    }
    if (!strcmp(how, "abort"))
        abort();
    if (!strcmp(how, "term"))
        kill(getpid(), SIGTERM);
    if (!strcmp(how, "kill"))
        kill(getpid(), SIGKILL);
    if (!strcmp(how, "bus")) {
        int fd = make_file("die.data", 10);
        unlink("die.data");
        char *p = mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, fd, 0);
        return p[PAGE];
    }
    if (!strcmp(how, "divide"))
        return 7000 / *(volatile int *)&seen;
    if (!strcmp(how, "nostack")) {
        faults_catch(0);
        fault_expected = 1;
        __asm__ volatile("mov $64, %rsp\n\tpush %rax");
    }
    return 77;
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc > 1)
        return die(argv[1]);
    arena_open();
    faults_catch(0);
    access_faults();
    file_faults();
    kernel_copies();
    returns();
    other_stack();
    exceptions();
    sent();
    return 0;
}
