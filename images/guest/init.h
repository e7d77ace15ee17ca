/* Shared by the parts of the init program. */
#ifndef HARNESS_INIT_H
#define HARNESS_INIT_H

#include <stddef.h>
#include <sys/types.h>

/* init.c */
void mark(const char *stage);
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
void die(const char *what) __attribute__((noreturn));   /* reports errno, then powers off */
long long now_ns(void);                                  /* CLOCK_BOOTTIME */
void nap_us(long us);
int settle(void);   /* spare SSH servers are there, devices stirred; not 0 with errno */
pid_t start(char *const argv[], char *const environment[], int in, int out);   /* -1: as init's */

/* adopt.c */
void adopt(int listener);

/* serve.c */
struct server {
    int listener;
    int news;        /* from the spare: readable when it has a connection or has ended; -1: none */
    int waiting;     /* the spare has come as far as to wait for one */
    long long due;   /* when to start a spare, of now_ns(); 0: not planned */
};
void open_server(struct server *server, int listener);
int server_fd(const struct server *server);
int server_wait(const struct server *server);
void start_due(struct server *server);
void serve(struct server *server);
int settle_server(struct server *server, long long end);

/* boot.c */
extern int is_host;
extern int is_container;
long read_file(const char *path, char *buffer, size_t size);     /* bytes, or -1; always ends in NUL */
int option(const char *name, char *value, size_t size);   /* NAME=VALUE of the kernel command line */
void mount_early(void);
void load_modules(void);
void load_late_modules(void);
void mount_root(void);
void enter_root(void);
void set_up_root(void);
void settle_host(void);

/* net.c */
void configure_network(void);
int set_ip(const char *told);      /* "ADDRESS/PREFIX,GATEWAY"; not 0 with errno, as set_mac() */
int set_mac(const char *text);     /* "02:00:0a:01:00:02" */
int listen_vsock(unsigned port);   /* descriptor, or -1 with errno */
int listen_tcp(unsigned short port);
int tcp_listens(unsigned port);    /* whether some process listens on it */
extern char ip_default[64];        /* "ADDRESS/PREFIX,GATEWAY" or "" */
int has_ip(void);
void stir_network(void);           /* a frame to nobody */

#endif
