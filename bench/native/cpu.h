#ifndef BENCH_CPU_H
#define BENCH_CPU_H

#include <sys/types.h>

/* Run on this processor only; returns -1 where the system cannot do that. */
int pin_to_cpu(int cpu);

/* Seconds of CPU that the process used: its threads, living or ended, and its children, living or
   reaped, that its main thread forked. -1 when it is gone or the system cannot tell. */
double process_cpu(pid_t pid);

#endif
