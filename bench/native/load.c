/* The load generator: one thread, one server, one JSON object about how it went. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu.h"
#include "run.h"

static const char usage[] =
    "load ADDRESS [options]      ADDRESS is tcp:HOST:PORT, unix:PATH, udp:HOST:PORT, unixgram:PATH\n"
    "  --traffic echo|up|down|http  what an operation is                     (echo)\n"
    "  --request FILE  --answer FILE  of http: what is said, and the body of the answer\n"
    "  --size BYTES                 of a line, body or packet                (64)\n"
    "  --connections N              connections, or datagram sockets         (1)\n"
    "  --window N                   operations in flight on each             (1)\n"
    "  --per-connection N           operations before it is closed, 0: kept  (0)\n"
    "  --idle N  --slow N           connections held beside the others       (0)\n"
    "  --hold                       say \"holding\" and seconds when the idle stand, await a line\n"
    "  --warm-up S  --seconds S  --timeout S                              (0.2, 1, 5)\n"
    "  --operations N               stop after so many, 0: when the time is over\n"
    "  --cpu N                      run on this processor\n"
    "  --spin                       and never sleep on it\n"
    "  --server PID                 read this process's CPU time over the window\n";

enum { TRAFFIC, SIZE, CONNECTIONS, WINDOW, PER_CONNECTION, IDLE_ONES, SLOW_ONES, HOLD, WARM_UP,
       SECONDS, PATIENCE, OPERATIONS, CPU, SPIN, SERVER, REQUEST, BODY };

static const struct option options[] = {
    {"traffic", 1, 0, TRAFFIC}, {"size", 1, 0, SIZE}, {"connections", 1, 0, CONNECTIONS},
    {"window", 1, 0, WINDOW}, {"per-connection", 1, 0, PER_CONNECTION}, {"idle", 1, 0, IDLE_ONES},
    {"slow", 1, 0, SLOW_ONES}, {"hold", 0, 0, HOLD}, {"warm-up", 1, 0, WARM_UP},
    {"seconds", 1, 0, SECONDS}, {"timeout", 1, 0, PATIENCE}, {"operations", 1, 0, OPERATIONS},
    {"cpu", 1, 0, CPU}, {"spin", 0, 0, SPIN}, {"server", 1, 0, SERVER},
    {"request", 1, 0, REQUEST}, {"answer", 1, 0, BODY}, {0, 0, 0, 0},
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

static enum traffic traffic(const char *name)
{
    static const char *names[] = {"echo", "up", "down", "http"};
    for (int i = 0; i < 4; i++)
        if (!strcmp(name, names[i]))
            return (enum traffic)i;
    stop("no such traffic", name);
    return ECHO;
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

static void set_option(struct settings *set, int option, const char *value)
{
    switch (option) {
    case TRAFFIC: set->traffic = traffic(value); break;
    case SIZE: set->size = (size_t)number(value, 1 << 26); break;
    case CONNECTIONS: set->connections = (int)number(value, 100000); break;
    case WINDOW: set->window = (int)number(value, 4096); break;
    case PER_CONNECTION: set->per_connection = (int)number(value, 1e9); break;
    case IDLE_ONES: set->idle = (int)number(value, 100000); break;
    case SLOW_ONES: set->slow = (int)number(value, 100000); break;
    case HOLD: set->hold = true; break;
    case WARM_UP: set->warm_up = number(value, 600); break;
    case SECONDS: set->seconds = number(value, 600); break;
    case PATIENCE: set->timeout = number(value, 600); break;
    case OPERATIONS: set->limit = (uint64_t)number(value, 1e12); break;
    case CPU: set->cpu = (int)number(value, 4096); break;
    case SPIN: set->spin = true; break;
    case REQUEST: set->traffic = HTTP; set->request = content(value, &set->request_size); break;
    case BODY: set->body = content(value, &set->size); break;
    case SERVER: set->server = (pid_t)number(value, 1e9); break;
    default: fputs(usage, stderr); exit(2);
    }
}

static void set_inet(struct settings *set, char *address)
{
    struct sockaddr_in *in = (struct sockaddr_in *)&set->address;
    char *port = strrchr(address, ':');
    if (!port)
        stop("an address needs a port", address);
    *port++ = 0;
    set->family = AF_INET;
    set->address_length = sizeof *in;
    in->sin_family = AF_INET;
    in->sin_port = htons((uint16_t)number(port, 65535));
    if (inet_pton(AF_INET, address, &in->sin_addr) != 1)
        stop("not an IPv4 address", address);
}

static void set_unix(struct settings *set, const char *path)
{
    struct sockaddr_un *un = (struct sockaddr_un *)&set->address;
    set->family = AF_UNIX;
    set->address_length = sizeof *un;
    un->sun_family = AF_UNIX;
    if (strlen(path) >= sizeof un->sun_path)
        stop("too long a path", path);
    strcpy(un->sun_path, path);
}

static void set_address(struct settings *set, char *address)
{
    char *rest = strchr(address, ':');
    if (!rest)
        stop("not an address", address);
    *rest++ = 0;
    bool is_unix = !strncmp(address, "unix", 4);
    bool packets = !strcmp(address, "udp") || !strcmp(address, "unixgram");
    if (!packets && strcmp(address, "tcp") && strcmp(address, "unix"))
        stop("no such kind of address", address);
    set->type = packets ? SOCK_DGRAM : SOCK_STREAM;
    if (is_unix)
        set_unix(set, rest);
    else
        set_inet(set, rest);
}

static void check_settings(const struct settings *set)
{
    if (set->window < 1 || set->size < (set->type == SOCK_DGRAM ? 8 : 1))
        stop("--window or --size", "too small");
    if (set->type == SOCK_DGRAM && (set->size > 65000 || set->traffic != ECHO))
        stop("a packet", "is an echo of at most 65000 bytes");
    if (set->traffic == HTTP && (set->window > 1 || set->per_connection > 1 || !set->request
                                 || !set->body))
        stop("http", "takes --request, --answer, --window 1, and --per-connection 0 or 1");
    if (set->connections + set->idle + set->slow < 1)
        stop("--connections", "nothing to do");
}

static void print_errors(const struct run *run)
{
    static const char *names[] = {"connect", "reset", "eof", "wrong", "timeout", "lost"};
    const char *comma = "";
    printf("\"errors\": {");
    for (int i = 0; i < ERRORS; i++)
        if (run->errors[i]) {
            printf("%s\"%s\": %llu", comma, names[i], (unsigned long long)run->errors[i]);
            comma = ", ";
        }
    printf("}, ");
}

static void print_latency(const struct histogram *h)
{
    const char *comma = "";
    printf("\"latency_us\": {\"p50\": %.1f, \"p99\": %.1f, \"p99.9\": %.1f, \"max\": %.1f}, ",
           histogram_quantile(h, .5) / 1e3, histogram_quantile(h, .99) / 1e3,
           histogram_quantile(h, .999) / 1e3, (double)h->largest / 1e3);
    printf("\"histogram_us\": [");
    for (int i = 0; i < BUCKETS; i++)
        if (h->count[i]) {
            printf("%s[%.2f, %llu]", comma, bucket_middle(i) / 1e3, (unsigned long long)h->count[i]);
            comma = ", ";
        }
    printf("]");
}

static void print_run(const struct run *run)
{
    printf("{\"operations\": %llu, \"seconds\": %.6f, \"started\": %llu, \"finished\": %llu, ",
           (unsigned long long)run->operations, (double)(run->end - run->begin) / 1e9,
           (unsigned long long)run->started, (unsigned long long)run->finished);
    printf("\"slow_operations\": %llu, \"idle\": %d, \"late\": %llu, ",
           (unsigned long long)run->slow_operations, run->idle_ready,
           (unsigned long long)run->late);
    if (run->server_cpu >= 0)
        printf("\"server_cpu\": %.6f, ", run->server_cpu);
    else
        printf("\"server_cpu\": null, ");
    printf("\"load_idle\": %.6f, \"load_cpu\": %.6f, ", (double)run->idle / 1e9,
           (double)run->own_cpu / 1e9);
    print_errors(run);
    print_latency(&run->latency);
    printf("}\n");
}

int main(int argc, char **argv)
{
    static struct run run = {.set = {.window = 1, .connections = 1, .size = 64, .warm_up = .2,
                                     .seconds = 1, .timeout = 5, .cpu = -1}};
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
        set_option(&run.set, option, optarg);
    if (argc - optind != 1) {
        fputs(usage, stderr);
        return 2;
    }
    allow_descriptors();
    set_address(&run.set, argv[optind]);
    check_settings(&run.set);
    if (run.set.cpu >= 0 && pin_to_cpu(run.set.cpu) < 0)
        stop("cannot pin", strerror(errno));
    if ((run.set.type == SOCK_DGRAM ? run_packets : run_streams)(&run) < 0)
        stop("cannot go on", strerror(errno));
    print_run(&run);
    return 0;
}
