/* A CPU-bound program with a warm working set, for docs/performance.md: compute SECONDS-WORTH-OF-ROUNDS. */
#include <stdio.h>
#include <stdlib.h>

#define N 512

static double a[N][N], b[N][N], c[N][N];
static unsigned next[1 << 20];

int main(int argc, char **argv) {
    int rounds = argc > 1 ? atoi(argv[1]) : 10;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++)
            a[i][j] = i + j, b[i][j] = i - j;
    for (unsigned i = 0; i < sizeof next / sizeof *next; i++)
        next[i] = (i * 2654435761u + 12345) & ((1 << 20) - 1);
    unsigned at = 0;
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < N; i++)
            for (int k = 0; k < N; k++)
                for (int j = 0; j < N; j++)
                    c[i][j] += a[i][k] * b[k][j];
        for (int i = 0; i < 1 << 22; i++)
            at = next[at] ^ (unsigned)(i & 1);
    }
    printf("%g %u\n", c[17][19], at);
    return 0;
}
