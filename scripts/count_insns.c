/* A plugin for QEMU's user-mode emulation: counts the guest's instructions and prints the sum.
 *
 * Debian ships QEMU without its header and its examples, so what is used of the interface is
 * declared here, as of its version 1 (QEMU 6 to 8). Instructions count when their block is entered;
 * a block that a signal interrupts counts whole.
 */
#include <stdint.h>
#include <stdio.h>

struct qemu_plugin_tb;
typedef uint64_t qemu_plugin_id_t;

extern void qemu_plugin_register_vcpu_tb_trans_cb(
    qemu_plugin_id_t id, void (*cb)(qemu_plugin_id_t id, struct qemu_plugin_tb *tb));
extern void qemu_plugin_register_vcpu_tb_exec_cb(
    struct qemu_plugin_tb *tb, void (*cb)(unsigned vcpu, void *data), int flags, void *data);
extern void qemu_plugin_register_atexit_cb(
    qemu_plugin_id_t id, void (*cb)(qemu_plugin_id_t id, void *data), void *data);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);

int qemu_plugin_version = 1;

static uint64_t n_insns;

static void on_block(unsigned vcpu, void *data)
{
    (void)vcpu;
    __atomic_fetch_add(&n_insns, (uint64_t)(uintptr_t)data, __ATOMIC_RELAXED);
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_cb(
        tb, on_block, 0, (void *)(uintptr_t)qemu_plugin_tb_n_insns(tb));
}

static void on_exit_of_guest(qemu_plugin_id_t id, void *data)
{
    (void)id, (void)data;
    fprintf(stderr, "instructions: %llu\n", (unsigned long long)n_insns);
}

int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv)
{
    (void)info, (void)argc, (void)argv;
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_atexit_cb(id, on_exit_of_guest, 0);
    return 0;
}
