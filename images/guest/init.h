/* Shared by the parts of the init program. */
#ifndef HARNESS_INIT_H
#define HARNESS_INIT_H

#include <stddef.h>

/* init.c */
void mark(const char *stage);
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
void die(const char *what) __attribute__((noreturn));   /* reports errno, then powers off */
long long now_ns(void);                                  /* CLOCK_BOOTTIME */
void nap_us(long us);

/* boot.c */
extern int is_host;
long read_file(const char *path, char *buffer, size_t size);     /* bytes, or -1; always ends in NUL */
void mount_early(void);
void load_modules(void);
void mount_root(void);
void enter_root(void);
void set_up_root(void);
void settle_host(void);

/* net.c */
void configure_network(void);
int listen_vsock(unsigned port);   /* descriptor, or -1 with errno */
int listen_tcp(unsigned short port);
int tcp_listens(unsigned port);    /* whether some process listens on it */
extern char ip_default[64];        /* "ADDRESS/PREFIX,GATEWAY" or "" */
int has_ip(void);

#endif
