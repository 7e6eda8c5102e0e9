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

static const struct option options[] = {
    {"size", 1, 0, 's'},             /* bytes of a line or packet, 64 */
    {"request", 1, 0, 'r'},          /* of HTTP: bytes of what is sent, which come from stdin, */
    {"answer", 1, 0, 'a'},           /* and then those of the answer's body */
    {"connections", 1, 0, 'c'},      /* 1 */
    {"window", 1, 0, 'w'},           /* operations in flight on each connection, 1 */
    {"close", 0, 0, 'e'},            /* each connection after its answer */
    {"warm-up", 1, 0, 'u'},          /* seconds before the measured time, 0.2 */
    {"seconds", 1, 0, 'm'},          /* of the measured time, 1 */
    {"timeout", 1, 0, 't'},          /* seconds for an answer, 5 */
    {"operations", 1, 0, 'o'},       /* stop after so many, 0: when the time is over */
    {"cpu", 1, 0, 'p'},              /* run on this processor, and never sleep */
    {"server", 1, 0, 'f'},           /* the process whose CPU time is read over the measured time */
    {0, 0, 0, 0},
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

/* So many bytes of stdin. */
static char *content(const char *value, size_t *size)
{
    *size = (size_t)number(value, 1 << 26);
    char *bytes = malloc(*size + 1);
    if (!bytes || fread(bytes, 1, *size, stdin) != *size)
        stop("cannot read that many bytes", value);
    return bytes;
}

static void set_option(int option, const char *value)
{
    cpu_set_t cpus = {0};
    switch (option) {
    case 's': set.size = (size_t)number(value, 1 << 26); break;
    case 'c': set.connections = (int)number(value, 100000); break;
    case 'w': set.window = (int)number(value, 4096); break;
    case 'e': set.close = true; break;
    case 'u': set.warm_up = number(value, 600); break;
    case 'm': set.seconds = number(value, 600); break;
    case 't': set.patience = (int64_t)(number(value, 600) * 1e9); break;
    case 'o': set.limit = (uint64_t)number(value, 1e12); break;
    case 'p':
        CPU_SET((size_t)number(value, CPU_SETSIZE - 1), &cpus);
        set.spin = sched_setaffinity(0, sizeof cpus, &cpus) == 0;
        break;
    case 'f': set.server = (pid_t)number(value, 1e9); break;
    case 'r': set.request = content(value, &set.request_size); break;
    case 'a': set.answer = content(value, &set.size); break;
    default: exit(2);
    }
}

static void set_address(const char *address)
{
    uint16_t port;
    if (sscanf(address, "%*3s:127.0.0.1:%hu", &port) != 1)
        stop("not an address", address);
    set.type = strncmp(address, "udp", 3) ? SOCK_STREAM : SOCK_DGRAM;
    set.address.sin_family = AF_INET;
    set.address.sin_port = htons(port);
    set.address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
}

static void check_settings(void)
{
    if (set.window < 1 || set.size < LEAST_SIZE || (set.type == SOCK_DGRAM && set.size > 65000))
        stop("--window or --size", "not in range");
    if (!set.request != !set.answer || ((set.request || set.close) && set.window > 1))
        stop("--request", "goes with --answer, and that or --close with --window 1");
    if (set.connections < 1)
        stop("--connections", "nothing to do");
}

static void print_run(void)
{
    static const char *names[] = {"connect", "reset", "eof", "wrong", "timeout", "lost"};
    printf("{\"operations\": %llu, \"seconds\": %.6f, \"started\": %llu, \"finished\": %llu, ",
           (unsigned long long)run.operations, (double)(run.end - run.begin) / 1e9,
           (unsigned long long)run.started, (unsigned long long)run.finished);
    printf("\"load_idle\": %.6f, \"server_cpu\": %.6f, \"latency_us\": {\"p50\": %.1f, \"p99\": %.1f, \"max\": %.1f}, "
           "\"errors\": {", (double)run.idle / 1e9, run.server_cpu, run_latency(.5), run_latency(.99), run_latency(1));
    for (int i = 0; i < ERRORS; i++)
        printf("%s\"%s\": %llu", i ? ", " : "", names[i], (unsigned long long)run.errors[i]);
    printf("}}\n");
}

/* load ADDRESS [options]: ADDRESS is tcp:127.0.0.1:PORT, and likewise tls or udp. */
int main(int argc, char **argv)
{
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
        set_option(option, optarg);
    if (argc - optind != 1)
        stop("usage", "load ADDRESS [options]: see load.c");
    signal(SIGPIPE, SIG_IGN);
    alarm(900);                      /* it ends by itself; this is for when it does not */
    set_address(argv[optind]);
    check_settings();
    if ((set.type == SOCK_DGRAM ? run_packets : run_streams)() < 0)
        stop("cannot go on", strerror(errno));
    print_run();
    return 0;
}
