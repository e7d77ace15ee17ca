/* Network interfaces and listeners, by ioctl and socket calls. */
#define _GNU_SOURCE
#include "init.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
/* after the above: it needs sa_family_t */
#include <linux/vm_sockets.h>

#define INTERFACE "eth0"
#define INTERFACE_DEADLINE_NS 5000000000LL
#define BACKLOG 128

char default_ip[64];
static char ip[64];

int has_ip(void)
{
    return *ip != 0;
}

static void set_address(int fd, unsigned long request, in_addr_t address, const char *what)
{
    struct ifreq r = {.ifr_name = INTERFACE};
    struct sockaddr_in *in = (struct sockaddr_in *)&r.ifr_addr;

    in->sin_family = AF_INET;
    in->sin_addr.s_addr = address;
    if (ioctl(fd, request, &r))
        die(what);
}

static void bring_up(int fd, const char *interface)
{
    struct ifreq r = {0};

    snprintf(r.ifr_name, sizeof r.ifr_name, "%s", interface);
    if (ioctl(fd, SIOCGIFFLAGS, &r))
        die(interface);
    r.ifr_flags |= IFF_UP;
    if (ioctl(fd, SIOCSIFFLAGS, &r))
        die(interface);
}

static void add_default_route(int fd, in_addr_t gateway)
{
    struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
    struct sockaddr_in *to = (struct sockaddr_in *)&route.rt_gateway;

    to->sin_family = AF_INET;
    to->sin_addr.s_addr = gateway;
    ((struct sockaddr_in *)&route.rt_dst)->sin_family = AF_INET;
    ((struct sockaddr_in *)&route.rt_genmask)->sin_family = AF_INET;
    /* A clone gets its identity again when the VMM saw no answer in time. */
    if (ioctl(fd, SIOCADDRT, &route) && errno != EEXIST)
        die("default route");
}

/* The value of harness.ip= on the kernel command line, or the image's default. */
static void choose_ip(void)
{
    if (!read_option("harness.ip", ip, sizeof ip))
        strcpy(ip, default_ip);
}

static void wait_for_interface(int fd)
{
    struct ifreq r = {.ifr_name = INTERFACE};
    long long deadline = now_ns() + INTERFACE_DEADLINE_NS;

    while (ioctl(fd, SIOCGIFINDEX, &r)) {
        if (now_ns() > deadline) {
            errno = ETIMEDOUT;
            die("no network interface " INTERFACE " after 5 s");
        }
        sleep_us(1000);
    }
}

/* Gives eth0 "ADDRESS/PREFIX[,GATEWAY]"; this removes its old address and routes. */
static void configure_interface(int fd, const char *configuration)
{
    char text[sizeof ip];

    snprintf(text, sizeof text, "%s", configuration);
    char *gateway = strchr(text, ','), *prefix = strchr(text, '/');
    if (gateway)
        *gateway++ = 0;
    int bits = prefix ? atoi(prefix + 1) : 32;
    if (prefix)
        *prefix = 0;
    errno = EINVAL;
    if (inet_addr(text) == INADDR_NONE || bits < 1 || bits > 32)
        die("harness.ip");
    wait_for_interface(fd);
    set_address(fd, SIOCSIFADDR, inet_addr(text), "address");
    set_address(fd, SIOCSIFNETMASK, htonl(~0u << (32 - bits)), "netmask");
    bring_up(fd, INTERFACE);
    if (gateway)
        add_default_route(fd, inet_addr(gateway));
}

/* Configures lo, and eth0 if there is an address. */
void configure_network(void)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    bring_up(fd, "lo");
    choose_ip();
    if (has_ip())
        configure_interface(fd, ip);
    close(fd);
}

int set_ip(const char *configuration)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    configure_interface(fd, configuration);
    close(fd);
    return 0;
}

int set_mac(const char *text)
{
    struct ifreq r = {.ifr_name = INTERFACE, .ifr_hwaddr.sa_family = ARPHRD_ETHER};
    unsigned char *mac = (unsigned char *)r.ifr_hwaddr.sa_data;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    errno = EINVAL;
    int failed = sscanf(text, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", mac, mac + 1, mac + 2, mac + 3,
                        mac + 4, mac + 5) != 6
                 || ioctl(fd, SIOCSIFHWADDR, &r);
    close(fd);
    return failed;
}

/*
 * Linux moves an interrupt's vector to its CPU at the first interrupt, by writes that exit to the
 * VMM's user space. A frame before the snapshot causes these exits, so that no clone has them during
 * a login. The destination is reserved for the nearest bridge, which forwards it to no port
 * (IEEE 802.1Q, 8.6.3).
 */
void send_dummy_frame(void)
{
    struct sockaddr_ll bridge = {
        .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_802_EX1), .sll_halen = ETH_ALEN,
        .sll_ifindex = if_nametoindex(INTERFACE), .sll_addr = {0x01, 0x80, 0xc2, 0, 0, 0x01},
    };
    int fd = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    sendto(fd, "", 1, 0, (struct sockaddr *)&bridge, sizeof bridge);   /* fails without a network */
    close(fd);
}

static int bind_and_listen(int fd, const void *address, socklen_t size)
{
    if (fd < 0 || bind(fd, address, size) || listen(fd, BACKLOG)) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

int listen_vsock(unsigned port)
{
    struct sockaddr_vm any = {
        .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port,
    };

    return bind_and_listen(socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0), &any, sizeof any);
}

int listen_tcp(unsigned short port)
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(port)};

    return bind_and_listen(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), &any, sizeof any);
}

/* Reads /proc: a connection would start a session of the server. */
int tcp_listens(unsigned port)
{
    static char table[65536];
    char entry[48];

    /* local 0.0.0.0:PORT, remote 0.0.0.0:0, state 0A = TCP_LISTEN */
    snprintf(entry, sizeof entry, " 00000000:%04X 00000000:0000 0A ", port);
    read_file("/proc/net/tcp", table, sizeof table);
    return strstr(table, entry) != NULL;
}
