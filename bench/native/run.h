/* What one run shall do, and what it has counted. */
#ifndef BENCH_RUN_H
#define BENCH_RUN_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#define LEAST_SIZE 8                 /* of a line: the number of its connection */

/* What the options ask for. */
extern struct settings {
    int type;                        /* SOCK_STREAM or SOCK_DGRAM */
    struct sockaddr_in address;
    int connections, window;         /* operations in flight on each connection */
    bool close;                      /* each connection after its answer */
    size_t size;                     /* bytes of a line, a body or a packet */
    char *request, *answer;          /* of HTTP: what is sent, and the body of the answer */
    size_t request_size;
    double warm_up, seconds;
    int64_t patience;                /* nanoseconds for an answer */
    uint64_t limit;                  /* operations to start, 0: as many as fit the time */
    bool spin;                       /* never sleep: the processor is the load's alone */
    pid_t server;                    /* whose CPU time to read, 0: nobody's */
} set;

enum error { CONNECT, RESET, END_OF_FILE, WRONG, TIMEOUT, LOST, ERRORS };

extern struct run {
    enum { WARMING, MEASURING, DRAINING } phase;
    uint64_t started, finished;      /* of the whole run, warm-up included */
    uint64_t operations;             /* finished within the window */
    uint64_t errors[ERRORS], errors_total;
    int64_t begin, end;              /* of the window, in nanoseconds */
    double server_cpu;               /* seconds used within the window, -1 unknown */
    int64_t idle;                    /* nanoseconds of the window in which the load had to wait */
    int64_t turn_began, next_look;
} run;

int64_t now_ns(void);

/* Fill `size` bytes with the alphabet; both sides know this text. */
void fill_pattern(char *text, size_t size);

/* Start the clock: the warm-up begins. */
void run_begin(void);
/* The wait for the server, which began when the turn before ended, has ended. */
void run_waited(int64_t now);
/* Move from warm-up to window to draining when it is time. Is it time to look for what is late? */
bool run_turn(int64_t now);
/* Close the window if the work ran out before the time did, and sort the latencies. */
void run_end(void);
/* May one more operation be started? If so it is counted as started. */
bool run_take(void);
void run_done(int64_t latency);
void run_error(enum error kind);
/* The latency in microseconds that `share` (0..1) of the operations did not exceed. */
double run_latency(double share);

/* The two engines. They return when everything started has ended, or -1 with errno set. */
int run_streams(void);
int run_packets(void);

#endif
