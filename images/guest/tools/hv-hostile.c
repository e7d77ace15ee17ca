/*
 * hv-hostile CASE [DEVICE [QUEUE]]: does to its hypervisor what no correct guest does.
 *
 * A line "hv-hostile: CASE" is on the console before the act. DEVICE is a virtio device to spare:
 * a disk (/dev/disk/by-serial/...), or a PCI function's folder in /sys. Its driver is taken off, and
 * QUEUE (0) filled by hand, with one malformation:
 *
 *   bad-index      the available ring names a descriptor outside of the table
 *   bad-next       a descriptor does
 *   loop           a chain that never ends
 *   ahead          more requests than the ring has places
 *   wild-address   a buffer outside of memory
 *   wild-ring      the descriptor table itself
 *   queue-size     a size that is no power of two
 *   queue-huge     a size beyond what the device has
 *   queue-index    a queue that the device does not have
 *   indirect       an indirect table of half a descriptor
 *   take-back      DRIVER_OK taken back without a reset
 *   honest         none: a request as it ought to be, answered with "honest: status N"
 *
 * Without a device:
 *
 *   exit-storm     reads of a port that nobody has, for ever
 *   memory         takes all memory there is
 *   flood          console lines, for ever
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
#define WILD (1ull << 45)
#define NEXT 1
#define WRITE 2
#define INDIRECT 4
#define QUEUES 8

struct descriptor { uint64_t address; uint32_t length; uint16_t flags, next; };

/* A queue and the buffers of one request, in one page: physically contiguous. */
struct page {
    struct descriptor table[SIZE];
    struct { uint16_t flags, index, ring[SIZE], event; } available;
    struct { uint16_t flags, index; struct { uint32_t id, length; } ring[SIZE]; uint16_t event; }
        used __attribute__((aligned(4)));
    struct { uint32_t type, reserved; uint64_t sector; } header __attribute__((aligned(16)));
    uint8_t data[512], status;
};

/* virtio 1.2, 4.1.4.3 */
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

static int open_there(const char *name, int flags)
{
    char path[PATH_MAX + 32];

    snprintf(path, sizeof path, "%s/%s", folder, name);
    int fd = open(path, flags);
    if (fd < 0)
        fail(path);
    return fd;
}

static void put(const char *name, const char *text)
{
    int fd = open_there(name, O_WRONLY);

    if (write(fd, text, strlen(text)) < 0)
        fail(name);
    close(fd);
}

/* The act begins once this is out. */
static void announce(const char *act)
{
    int fd = open("/dev/console", O_WRONLY | O_NOCTTY);
    char line[64];
    int length = snprintf(line, sizeof line, "hv-hostile: %s\n", act);

    if (fd < 0 || write(fd, line, length) != length || tcdrain(fd))
        fail("/dev/console");
    close(fd);
}

static uint64_t physical(const void *address)
{
    uint64_t entry;
    int fd = open("/proc/self/pagemap", O_RDONLY);

    if (fd < 0 || pread(fd, &entry, 8, (uintptr_t)address / PAGE * 8) != 8 || !(entry << 9 >> 9))
        fail("/proc/self/pagemap");
    close(fd);
    return (entry & ((1ull << 55) - 1)) * PAGE + (uintptr_t)address % PAGE;
}

/* Find the function of a disk, and take its driver off. */
static void take(const char *device)
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
    put("driver/unbind", strrchr(folder, '/') + 1);
    put("enable", "1");
}

/* The place of a virtio structure in the function's BARs; `extra` is the word after it. */
static void find(int kind, int *bar, uint32_t *offset, uint32_t *extra)
{
    uint8_t config[256];
    int fd = open_there("config", O_RDONLY);

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
    return open_there(name, O_RDWR | O_SYNC);
}

static volatile struct common *map_common(void)
{
    int bar;
    uint32_t offset, extra;

    find(1, &bar, &offset, &extra);
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

    find(2, &bar, &offset, &multiplier);
    int fd = open_bar(bar);
    common->select = queue;
    offset += common->notify_offset * multiplier;
    if (pwrite(fd, &queue, 2, offset) == 2)   /* ports */
        return;
    char *base = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset & ~(PAGE - 1));
    if (base == MAP_FAILED)
        fail("notification");
    *(volatile uint16_t *)(base + offset % PAGE) = queue;
}

/* A read of the first sector. */
static void request(struct page *page)
{
    struct descriptor table[] = {
        {physical(&page->header), sizeof page->header, NEXT, 1},
        {physical(page->data), sizeof page->data, NEXT | WRITE, 2},
        {physical(&page->status), 1, WRITE, 0},
    };

    memcpy(page->table, table, sizeof table);
    page->status = 0xff;
    page->available.index = 1;
}

static void set_queue(volatile struct common *common, int queue, struct page *page, const char *act)
{
    common->select = queue;
    common->size = !strcmp(act, "queue-size") ? 7 : !strcmp(act, "queue-huge") ? 0x8000 : SIZE;
    uint64_t table = !strcmp(act, "wild-ring") ? WILD : physical(page->table);
    common->table[0] = table, common->table[1] = table >> 32;
    common->available[0] = physical(&page->available);
    common->available[1] = physical(&page->available) >> 32;
    common->used[0] = physical(&page->used), common->used[1] = physical(&page->used) >> 32;
    common->enable = 1;
}

static void malform(struct page *page, const char *act)
{
    request(page);
    if (!strcmp(act, "bad-index"))
        page->available.ring[0] = 200;
    else if (!strcmp(act, "bad-next"))
        page->table[0].next = 200;
    else if (!strcmp(act, "loop"))
        page->table[1].flags = NEXT, page->table[1].next = 0;
    else if (!strcmp(act, "ahead"))
        page->available.index = 1000;
    else if (!strcmp(act, "wild-address"))
        page->table[1].address = WILD;
    else if (!strcmp(act, "indirect"))
        page->table[0].flags = INDIRECT, page->table[0].length = 8;
}

static void ring(const char *act, const char *device, int queue)
{
    static const char none[] = "";

    take(device);
    volatile struct common *common = map_common();
    common->status = 0;
    common->status = 1, common->status = 3;
    common->driver_select = 0, common->driver = strcmp(act, "indirect") ? 0 : 1u << 28;
    common->driver_select = 1, common->driver = 1;   /* VIRTIO_F_VERSION_1 */
    common->status = 11;
    int queues = common->queues > QUEUES ? QUEUES : common->queues;
    char *pages = mmap(NULL, QUEUES * PAGE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED | MAP_POPULATE, -1, 0);
    if (pages == MAP_FAILED || queue >= queues)
        fail("queue");
    struct page *mine = (struct page *)(pages + queue * PAGE);
    for (int number = 0; number < queues; number++)
        set_queue(common, number, (struct page *)(pages + number * PAGE),
                  number == queue ? act : none);
    malform(mine, act);
    announce(act);
    if (!strcmp(act, "queue-index"))
        common->select = 200, common->enable = 1;
    common->status = 15;
    kick(common, queue);
    if (!strcmp(act, "take-back"))
        common->status = 11;
    usleep(500000);
    common->status = 0;   /* the page is ours no longer once we end */
    printf("%s: status %d\n", act, mine->status);
}

static void storm(void)
{
    if (iopl(3))
        fail("iopl");
    announce("exit-storm");
    for (;;)
        inb(0xd00);
}

static void hog(void)
{
    announce("memory");
    for (;;)   /* large pieces, so that few page faults stand between it and its end */
        mmap(NULL, 8 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE,
             -1, 0);
}

static void flood(void)
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
    static const char *const rings[] = {
        "bad-index", "bad-next", "loop", "ahead", "wild-address", "wild-ring", "queue-size",
        "queue-huge", "queue-index", "indirect", "take-back", "honest",
    };
    static const struct { const char *name; void (*act)(void); } others[] = {
        {"exit-storm", storm}, {"memory", hog}, {"flood", flood},
    };

    for (unsigned i = 0; argc == 2 && i < sizeof others / sizeof *others; i++)
        if (!strcmp(argv[1], others[i].name))
            others[i].act();
    for (unsigned i = 0; (argc == 3 || argc == 4) && i < sizeof rings / sizeof *rings; i++)
        if (!strcmp(argv[1], rings[i])) {
            ring(rings[i], argv[2], argc == 4 ? atoi(argv[3]) : 0);
            return 0;
        }
    fprintf(stderr, "usage: hv-hostile CASE [DEVICE [QUEUE]]\n");
    return 2;
}
