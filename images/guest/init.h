/* Declarations shared by the parts of the init program. */
#ifndef HARNESS_INIT_H
#define HARNESS_INIT_H

#include <stddef.h>
#include <sys/types.h>

/* init.c */
void log_stage(const char *stage);
void log_line(const char *format, ...) __attribute__((format(printf, 1, 2)));
void die(const char *what) __attribute__((noreturn));   /* logs errno, then powers off */
long long now_ns(void);                                  /* CLOCK_BOOTTIME */
void sleep_us(long us);
int prepare_snapshot(void);   /* spare SSH servers wait, a frame is sent; not 0 with errno */
pid_t spawn(char *const argv[], char *const environment[], int in, int out);   /* -1: init's own */

/* vmm_requests.c */
void handle_vmm_request(int listener);

/* ssh_servers.c */
struct ssh_server {
    int listener;
    int status;      /* pipe of the spare: readable at its next state or its end; -1: no spare */
    int waiting;     /* the spare waits in accept() */
    long long due;   /* when to start a spare, in now_ns(); 0: not planned */
};
void open_ssh_server(struct ssh_server *server, int listener);
int ssh_server_fd(const struct ssh_server *server);
int ssh_server_timeout(const struct ssh_server *server);
void start_due_spare(struct ssh_server *server);
void handle_ssh_server(struct ssh_server *server);
int prepare_ssh_server(struct ssh_server *server, long long deadline);

/* boot.c */
extern int is_host;
extern int is_container;
long read_file(const char *path, char *buffer, size_t size);   /* bytes, or -1; ends in NUL */
int read_option(const char *name, char *value, size_t size);   /* NAME=VALUE of the command line */
void mount_early(void);
void load_modules(void);
void load_late_modules(void);
void mount_root(void);
void enter_root(void);
void set_up_root(void);

/* host.c */
void mount_cgroups(void);
void prepare_host(void);

/* net.c */
void configure_network(void);
int set_ip(const char *configuration);   /* "ADDRESS/PREFIX,GATEWAY"; not 0 with errno */
int set_mac(const char *text);           /* "02:00:0a:01:00:02"; not 0 with errno */
int listen_vsock(unsigned port);         /* descriptor, or -1 with errno */
int listen_tcp(unsigned short port);     /* likewise */
int tcp_listens(unsigned port);          /* whether a process listens on the port */
extern char default_ip[64];              /* "ADDRESS/PREFIX,GATEWAY" or "" */
int has_ip(void);
void send_dummy_frame(void);

#endif
