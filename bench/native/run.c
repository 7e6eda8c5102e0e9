#define _GNU_SOURCE
#include "run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MOST_ERRORS 1000             /* after that the run is given up */
#define LOOK_AFTER 20000000          /* what is late is looked for each 20 ms */
#define MOST_LATENCIES (1 << 24)     /* of those the quantiles are; no run of seconds has more */

struct settings set = {.window = 1, .connections = 1, .size = 64, .warm_up = .2, .seconds = 1,
                       .patience = 5000000000};
struct run run;
static uint32_t latencies[MOST_LATENCIES];

int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void fill_pattern(char *text, size_t size)
{
    for (size_t i = 0; i < size; i++)
        text[i] = (char)('a' + i % 26);
}

/* The CPU clock of a process counts nanoseconds and includes its ended threads. */
static double own_cpu(pid_t pid)
{
    clockid_t clock;
    struct timespec used;
    if (!pid || clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &used))
        return -1;
    return (double)used.tv_sec + (double)used.tv_nsec / 1e9;
}

/* cutime and cstime of proc_pid_stat(5), counted in ticks of 10 ms. */
static double reaped_cpu(pid_t pid)
{
    char path[64], text[1024];
    long user = 0, system = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "r");
    if (!file)
        return 0;
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    char *after_name = strrchr(text, ')');
    if (!after_name || sscanf(after_name + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u"
                                              " %ld %ld", &user, &system) != 2)
        return 0;
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

/* Seconds of CPU that the process used: its threads, living or ended, and its children, living or
   reaped, that its main thread forked. -1 when it is gone. */
static double process_cpu(pid_t pid)
{
    char path[64];
    int child;
    double used, sum = own_cpu(pid) + reaped_cpu(pid);
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)pid, (int)pid);
    FILE *file = fopen(path, "r");
    if (!file)
        return -1;
    while (fscanf(file, "%d", &child) == 1)
        if ((used = process_cpu(child)) > 0)
            sum += used;
    fclose(file);
    return sum;
}

static void open_window(int64_t now)
{
    run.phase = MEASURING;
    run.begin = now;
    run.server_cpu = process_cpu(set.server);
    run.idle = 0;
}

static void close_window(int64_t now)
{
    double used = process_cpu(set.server);
    if (run.phase == WARMING)
        open_window(now);
    run.phase = DRAINING;
    run.end = now;
    run.server_cpu = used < 0 || run.server_cpu < 0 ? -1 : used - run.server_cpu;
}

void run_begin(void)
{
    run.begin = run.turn_began = now_ns();
    if (set.warm_up <= 0)
        open_window(run.begin);
}

void run_waited(int64_t now)
{
    if (run.phase == MEASURING)
        run.idle += now - run.turn_began;
}

bool run_turn(int64_t now)
{
    double passed = (double)(now - run.begin) / 1e9;
    bool enough = set.limit && run.finished >= set.limit;
    bool over = passed >= set.seconds && (run.operations || run.errors_total);
    bool look = now >= run.next_look;
    run.turn_began = now;
    if (look)
        run.next_look = now + LOOK_AFTER;
    if (run.phase == DRAINING)
        return look;
    if (run.errors_total >= MOST_ERRORS)
        close_window(now);
    else if (run.phase == WARMING && passed >= set.warm_up)
        open_window(now);
    else if (run.phase == MEASURING && (over || enough))
        close_window(now);
    return look;
}

bool run_take(void)
{
    if (run.phase == DRAINING || (set.limit && run.started >= set.limit))
        return false;
    run.started++;
    return true;
}

void run_done(int64_t latency)
{
    run.finished++;
    if (run.phase != MEASURING)
        return;
    if (run.operations < MOST_LATENCIES)
        latencies[run.operations] = latency < UINT32_MAX ? (uint32_t)latency : UINT32_MAX;
    run.operations++;
}

void run_error(enum error kind)
{
    run.errors[kind]++;
    run.errors_total++;
}

static int compare(const void *one, const void *other)
{
    uint32_t a = *(const uint32_t *)one, b = *(const uint32_t *)other;
    return (a > b) - (a < b);
}

static size_t kept(void)
{
    return run.operations < MOST_LATENCIES ? run.operations : MOST_LATENCIES;
}

void run_end(void)
{
    if (run.phase != DRAINING)
        close_window(now_ns());
    qsort(latencies, kept(), sizeof *latencies, compare);
}

double run_latency(double share)
{
    size_t count = kept();
    return count ? latencies[(size_t)(share * (double)(count - 1))] / 1e3 : 0;
}
