/* The load generator: one thread, one server, one JSON object about how it went. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "run.h"

enum { SIZE, CONNECTIONS, WINDOW, CLOSE, WARM_UP, SECONDS, PATIENCE, OPERATIONS,
       CPU, SERVER, REQUEST, ANSWER };

static const struct option options[] = {
    {"size", 1, 0, SIZE}, {"connections", 1, 0, CONNECTIONS}, {"window", 1, 0, WINDOW},
    {"close", 0, 0, CLOSE}, {"warm-up", 1, 0, WARM_UP}, {"seconds", 1, 0, SECONDS},
    {"timeout", 1, 0, PATIENCE}, {"operations", 1, 0, OPERATIONS}, {"cpu", 1, 0, CPU},
    {"server", 1, 0, SERVER}, {"request", 1, 0, REQUEST},
    {"answer", 1, 0, ANSWER}, {0, 0, 0, 0},
};

static void stop(const char *why, const char *what)
{
    fprintf(stderr, "load: %s: %s\n", why, what);
    exit(2);
}

/* A number from 0 to `most`, or the end. */
static double number(const char *text, double most)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= 0 && value <= most))
        stop("not a number in range", text);
    return value;
}

/* The content of a file, and its size. */
static char *content(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END))
        stop("cannot read", path);
    *size = (size_t)ftell(file);
    rewind(file);
    char *bytes = malloc(*size + 1);
    if (!bytes || fread(bytes, 1, *size, file) != *size)
        stop("cannot read", path);
    fclose(file);
    return bytes;
}

static void pin_to_cpu(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set))
        stop("cannot pin", strerror(errno));
}

static void set_option(struct settings *set, int option, const char *value)
{
    switch (option) {
    case SIZE: set->size = (size_t)number(value, 1 << 26); break;
    case CONNECTIONS: set->connections = (int)number(value, 100000); break;
    case WINDOW: set->window = (int)number(value, 4096); break;
    case CLOSE: set->close = true; break;
    case WARM_UP: set->warm_up = number(value, 600); break;
    case SECONDS: set->seconds = number(value, 600); break;
    case PATIENCE: set->timeout = number(value, 600); break;
    case OPERATIONS: set->limit = (uint64_t)number(value, 1e12); break;
    case CPU:
        pin_to_cpu((int)number(value, CPU_SETSIZE - 1));
        set->spin = true;
        break;
    case SERVER: set->server = (pid_t)number(value, 1e9); break;
    case REQUEST: set->request = content(value, &set->request_size); break;
    case ANSWER: set->answer = content(value, &set->size); break;
    default: exit(2);
    }
}

/* tcp:127.0.0.1:80, and likewise tls and udp. */
static void set_address(struct settings *set, char *address)
{
    char *host = strchr(address, ':'), *port = strrchr(address, ':');
    if (!host || port == host)
        stop("not an address", address);
    *port++ = 0;
    set->type = strncmp(address, "udp", 3) ? SOCK_STREAM : SOCK_DGRAM;
    set->address.sin_family = AF_INET;
    set->address.sin_port = htons((uint16_t)number(port, 65535));
    if (inet_pton(AF_INET, host + 1, &set->address.sin_addr) != 1)
        stop("not an IPv4 address", host + 1);
}

static void check_settings(const struct settings *set)
{
    if (set->window < 1 || set->size < 8 || (set->type == SOCK_DGRAM && set->size > 65000))
        stop("--window or --size", "not in range");
    if (!set->request != !set->answer || ((set->request || set->close) && set->window > 1))
        stop("--request", "goes with --answer, and that or --close with --window 1");
    if (set->connections < 1)
        stop("--connections", "nothing to do");
}

static void print_run(const struct run *run)
{
    static const char *names[] = {"connect", "reset", "eof", "wrong", "timeout", "lost"};
    const char *comma = "";
    printf("{\"operations\": %llu, \"seconds\": %.6f, \"started\": %llu, \"finished\": %llu, ",
           (unsigned long long)run->operations, (double)(run->end - run->begin) / 1e9,
           (unsigned long long)run->started, (unsigned long long)run->finished);
    printf("\"load_idle\": %.6f, \"latency_us\": {\"p50\": %.1f, \"p99\": %.1f, \"max\": %.1f}, ",
           (double)run->idle / 1e9, run_latency(run, .5), run_latency(run, .99),
           run_latency(run, 1));
    if (run->server_cpu >= 0)
        printf("\"server_cpu\": %.6f, \"errors\": {", run->server_cpu);
    else
        printf("\"server_cpu\": null, \"errors\": {");
    for (int i = 0; i < ERRORS; i++)
        if (run->errors[i]) {
            printf("%s\"%s\": %llu", comma, names[i], (unsigned long long)run->errors[i]);
            comma = ", ";
        }
    printf("}}\n");
}

/* load ADDRESS [options]            ADDRESS is tcp:HOST:PORT, tls:…, or udp:…
     --size BYTES                    of a line or packet                    (64)
     --request FILE --answer FILE    HTTP: what is sent, and the body of the answer
     --connections N                 connections                            (1)
     --window N                      operations in flight on each           (1)
     --close                         each connection after its answer
     --warm-up S --seconds S --timeout S                                    (0.2, 1, 5)
     --operations N                  stop after so many, 0: when the time is over
     --cpu N                         run on this processor, and never sleep
     --server PID                    read this process's CPU time over the window */
int main(int argc, char **argv)
{
    static struct run run = {.set = {.window = 1, .connections = 1, .size = 64, .warm_up = .2,
                                     .seconds = 1, .timeout = 5}};
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
        set_option(&run.set, option, optarg);
    if (argc - optind != 1)
        stop("usage", "load ADDRESS [options]: see load.c");
    signal(SIGPIPE, SIG_IGN);
    alarm(900);                      /* it ends by itself; this is for when it does not */
    allow_descriptors();
    set_address(&run.set, argv[optind]);
    check_settings(&run.set);
    if ((run.set.type == SOCK_DGRAM ? run_packets : run_streams)(&run) < 0)
        stop("cannot go on", strerror(errno));
    print_run(&run);
    return 0;
}
