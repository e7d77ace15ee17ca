/*
 * hv-hostile CASE [DEVICE [QUEUE]]: attacks the hypervisor as no correct guest does.
 *
 * Prints "hv-hostile: CASE" on the console before the attack. DEVICE is a virtio device that the
 * guest does not need: a disk (/dev/disk/by-serial/...), or the /sys folder of a PCI function. The
 * tool unbinds its driver and fills QUEUE (default 0) by hand, with one malformation:
 *
 *   bad-index         the available ring names a descriptor outside the table
 *   bad-next          a descriptor's next field does
 *   loop              a descriptor chain without an end
 *   index-overrun     more requests than the ring has entries
 *   bad-address       a buffer outside guest memory
 *   bad-ring-address  a descriptor table outside guest memory
 *   queue-size        a queue size that is no power of two
 *   queue-huge        a queue size above the device's maximum
 *   queue-index       a queue that the device does not have
 *   indirect          an indirect table of half a descriptor
 *   clear-driver-ok   DRIVER_OK cleared without a reset
 *   well-formed       none: a correct request; prints "well-formed: status N"
 *
 * Cases without a device:
 *
 *   exit-storm     reads a port without a device, in a loop without an end
 *   memory         allocates memory without an end
 *   flood          writes console lines without an end
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <termios.h>
#include <unistd.h>

#define PAGE 4096
#define SIZE 8                      /* entries of a queue */
#define OUTSIDE_MEMORY (1ull << 45)
#define NEXT 1
#define WRITE 2
#define INDIRECT 4
#define QUEUES 8

enum { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8 };   /* device status */

struct descriptor { uint64_t address; uint32_t length; uint16_t flags, next; };

/* A queue and the buffers of one request. One page holds them: they are physically contiguous. */
struct page {
    struct descriptor table[SIZE];
    struct { uint16_t flags, index, ring[SIZE], event; } available;
    struct { uint16_t flags, index; struct { uint32_t id, length; } ring[SIZE]; uint16_t event; }
        used __attribute__((aligned(4)));
    struct { uint32_t type, reserved; uint64_t sector; } header __attribute__((aligned(16)));
    uint8_t data[512], status;
};

/* struct virtio_pci_common_cfg (virtio 1.2, 4.1.4.3) */
struct common {
    uint32_t device_select, device, driver_select, driver;
    uint16_t config_vector, queues;
    uint8_t status, generation;
    uint16_t select, size, vector, enable, notify_offset;
    uint32_t table[2], available[2], used[2];
};

static char folder[PATH_MAX];       /* of the PCI function */

static void fail(const char *what)
{
    fprintf(stderr, "hv-hostile: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int open_in_folder(const char *name, int flags)
{
    char path[PATH_MAX + 32];

    snprintf(path, sizeof path, "%s/%s", folder, name);
    int fd = open(path, flags);
    if (fd < 0)
        fail(path);
    return fd;
}

static void write_attribute(const char *name, const char *text)
{
    int fd = open_in_folder(name, O_WRONLY);

    if (write(fd, text, strlen(text)) < 0)
        fail(name);
    close(fd);
}

/* Prints the case and drains the console, so that the host sees the line before the attack. */
static void announce(const char *name)
{
    int fd = open("/dev/console", O_WRONLY | O_NOCTTY);
    char line[64];
    int length = snprintf(line, sizeof line, "hv-hostile: %s\n", name);

    if (fd < 0 || write(fd, line, length) != length || tcdrain(fd))
        fail("/dev/console");
    close(fd);
}

/* The guest physical address of a locked page (Documentation/admin-guide/mm/pagemap.rst). */
static uint64_t physical_address(const void *address)
{
    uint64_t entry;
    int fd = open("/proc/self/pagemap", O_RDONLY);

    if (fd < 0 || pread(fd, &entry, 8, (uintptr_t)address / PAGE * 8) != 8 || !(entry << 9 >> 9))
        fail("/proc/self/pagemap");
    close(fd);
    return (entry & ((1ull << 55) - 1)) * PAGE + (uintptr_t)address % PAGE;
}

/* Finds the device's PCI function and unbinds its driver. */
static void unbind_driver(const char *device)
{
    char real[PATH_MAX], path[PATH_MAX + 32];

    if (!realpath(device, real))
        fail(device);
    if (!strncmp(real, "/dev/", 5)) {
        snprintf(path, sizeof path, "/sys/block/%s/device/..", strrchr(real, '/') + 1);
        if (!realpath(path, real))
            fail(path);
    }
    strcpy(folder, real);
    write_attribute("driver/unbind", strrchr(folder, '/') + 1);
    write_attribute("enable", "1");
}

/* Finds a virtio structure by its PCI capability. `extra` is the word after the capability: for
 * notifications the multiplier. */
static void find_structure(int kind, int *bar, uint32_t *offset, uint32_t *extra)
{
    uint8_t config[256];
    int fd = open_in_folder("config", O_RDONLY);

    if (pread(fd, config, 256, 0) != 256)
        fail("config");
    close(fd);
    for (int at = config[0x34]; at; at = config[at + 1])
        if (config[at] == 9 && config[at + 3] == kind) {
            *bar = config[at + 4];
            memcpy(offset, config + at + 8, 4);
            memcpy(extra, config + at + 16, 4);
            return;
        }
    errno = ENODEV;
    fail("virtio capability");
}

static int open_bar(int bar)
{
    char name[16];

    snprintf(name, sizeof name, "resource%d", bar);
    return open_in_folder(name, O_RDWR | O_SYNC);
}

static volatile struct common *map_common(void)
{
    int bar;
    uint32_t offset, extra;

    find_structure(1, &bar, &offset, &extra);
    int fd = open_bar(bar);
    char *base = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset & ~(PAGE - 1));
    if (base == MAP_FAILED)
        fail("BAR");
    return (void *)(base + offset % PAGE);
}

static void kick(volatile struct common *common, uint16_t queue)
{
    int bar;
    uint32_t offset, multiplier;

    find_structure(2, &bar, &offset, &multiplier);
    int fd = open_bar(bar);
    common->select = queue;
    offset += common->notify_offset * multiplier;
    if (pwrite(fd, &queue, 2, offset) == 2)   /* the BAR is of I/O ports */
        return;
    char *base = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset & ~(PAGE - 1));
    if (base == MAP_FAILED)
        fail("notification");
    *(volatile uint16_t *)(base + offset % PAGE) = queue;
}

/* Fills in a read of the first sector. */
static void fill_request(struct page *page)
{
    struct descriptor table[] = {
        {physical_address(&page->header), sizeof page->header, NEXT, 1},
        {physical_address(page->data), sizeof page->data, NEXT | WRITE, 2},
        {physical_address(&page->status), 1, WRITE, 0},
    };

    memcpy(page->table, table, sizeof table);
    page->status = 0xff;
    page->available.index = 1;
}

static void set_queue(volatile struct common *common, int queue, struct page *page,
                      const char *malformation)
{
    common->select = queue;
    common->size = !strcmp(malformation, "queue-size") ? 7
                 : !strcmp(malformation, "queue-huge") ? 0x8000 : SIZE;
    uint64_t table = physical_address(page->table), used = physical_address(&page->used);
    if (!strcmp(malformation, "bad-ring-address"))
        table = OUTSIDE_MEMORY;
    common->table[0] = table, common->table[1] = table >> 32;
    common->available[0] = physical_address(&page->available);
    common->available[1] = physical_address(&page->available) >> 32;
    common->used[0] = used, common->used[1] = used >> 32;
    common->enable = 1;
}

static void malform(struct page *page, const char *malformation)
{
    fill_request(page);
    if (!strcmp(malformation, "bad-index"))
        page->available.ring[0] = 200;
    else if (!strcmp(malformation, "bad-next"))
        page->table[0].next = 200;
    else if (!strcmp(malformation, "loop"))
        page->table[1].flags = NEXT, page->table[1].next = 0;
    else if (!strcmp(malformation, "index-overrun"))
        page->available.index = 1000;
    else if (!strcmp(malformation, "bad-address"))
        page->table[1].address = OUTSIDE_MEMORY;
    else if (!strcmp(malformation, "indirect"))
        page->table[0].flags = INDIRECT, page->table[0].length = 8;
}

static void attack_ring(const char *malformation, const char *device, int queue)
{
    static const char none[] = "";

    unbind_driver(device);
    volatile struct common *common = map_common();
    common->status = 0;
    common->status = ACKNOWLEDGE, common->status = ACKNOWLEDGE | DRIVER;
    common->driver_select = 0, common->driver = strcmp(malformation, "indirect") ? 0 : 1u << 28;
    common->driver_select = 1, common->driver = 1;   /* VIRTIO_F_VERSION_1 */
    common->status = ACKNOWLEDGE | DRIVER | FEATURES_OK;
    int queues = common->queues > QUEUES ? QUEUES : common->queues;
    char *pages = mmap(NULL, QUEUES * PAGE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED | MAP_POPULATE, -1, 0);
    if (pages == MAP_FAILED || queue >= queues)
        fail("queue");
    struct page *target = (struct page *)(pages + queue * PAGE);
    for (int number = 0; number < queues; number++)
        set_queue(common, number, (struct page *)(pages + number * PAGE),
                  number == queue ? malformation : none);
    malform(target, malformation);
    announce(malformation);
    if (!strcmp(malformation, "queue-index"))
        common->select = 200, common->enable = 1;
    common->status = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
    kick(common, queue);
    if (!strcmp(malformation, "clear-driver-ok"))
        common->status = ACKNOWLEDGE | DRIVER | FEATURES_OK;
    usleep(500000);
    common->status = 0;   /* reset: the kernel frees the queue's page when this process ends */
    printf("%s: status %d\n", malformation, target->status);
}

static void exit_storm(void)
{
    if (iopl(3))
        fail("iopl");
    announce("exit-storm");
    for (;;)
        inb(0xd00);
}

static void exhaust_memory(void)
{
    announce("memory");
    for (;;)   /* in large pieces: few system calls and page faults delay the end */
        mmap(NULL, 8 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE,
             -1, 0);
}

static void flood_console(void)
{
    static char lines[PAGE];
    int fd = open("/dev/console", O_WRONLY | O_NOCTTY);

    memset(lines, '\n', sizeof lines);
    announce("flood");
    while (write(fd, lines, sizeof lines) > 0)
        ;
    fail("/dev/console");
}

int main(int argc, char **argv)
{
    static const char *const malformations[] = {
        "bad-index", "bad-next", "loop", "index-overrun", "bad-address", "bad-ring-address",
        "queue-size", "queue-huge", "queue-index", "indirect", "clear-driver-ok", "well-formed",
    };
    const unsigned count = sizeof malformations / sizeof *malformations;
    static const struct { const char *name; void (*run)(void); } attacks[] = {
        {"exit-storm", exit_storm}, {"memory", exhaust_memory}, {"flood", flood_console},
    };

    for (unsigned i = 0; argc == 2 && i < sizeof attacks / sizeof *attacks; i++)
        if (!strcmp(argv[1], attacks[i].name))
            attacks[i].run();
    for (unsigned i = 0; (argc == 3 || argc == 4) && i < count; i++)
        if (!strcmp(argv[1], malformations[i])) {
            attack_ring(malformations[i], argv[2], argc == 4 ? atoi(argv[3]) : 0);
            return 0;
        }
    fprintf(stderr, "usage: hv-hostile CASE [DEVICE [QUEUE]]\n");
    return 2;
}
