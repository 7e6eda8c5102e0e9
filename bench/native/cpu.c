#define _GNU_SOURCE
#include "cpu.h"

#ifdef __linux__

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int pin_to_cpu(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)cpu, &set);
    return sched_setaffinity(0, sizeof set, &set);
}

/* The CPU clock of a process counts nanoseconds and includes its ended threads. */
static double own_cpu(pid_t pid)
{
    clockid_t clock;
    struct timespec used;
    if (clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &used))
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

static double living_children_cpu(pid_t pid)
{
    char path[64];
    int child;
    double used, sum = 0;
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)pid, (int)pid);
    FILE *file = fopen(path, "r");
    if (!file)
        return 0;
    while (fscanf(file, "%d", &child) == 1)
        if ((used = process_cpu(child)) > 0)
            sum += used;
    fclose(file);
    return sum;
}

double process_cpu(pid_t pid)
{
    double own = own_cpu(pid);
    return own < 0 ? -1 : own + living_children_cpu(pid) + reaped_cpu(pid);
}

#else

int pin_to_cpu(int cpu)
{
    (void)cpu;
    return -1;
}

double process_cpu(pid_t pid)
{
    (void)pid;
    return -1;
}

#endif
