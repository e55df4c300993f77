/* Runs a command and ends it at the N-th system call that may reach a directory.
 *
 * usage: killer FOLDER WHEN one|all LOG COMMAND [ARGUMENT...]
 *
 * Counted, over all processes below the command (not in the command itself, which drives them): each call that writes
 * or syncs a file below FOLDER, and each that makes, renames or removes a name below it. The call with the number WHEN
 * is not carried out: its process is killed (one), or every process is (all, as in a power cut). WHEN 0 kills nobody.
 * LOG gets one line a call: number, pid, name, path.
 *
 * Source: seccomp(2), ptrace(2); PTRACE_GET_SYSCALL_INFO needs Linux 5.3.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum kind { FD, PATH, AT, TWO, TWO_AT, OPEN, OPEN_AT };
/* Where the thing that changes is named: a descriptor, a path, a path at a descriptor, the second of two paths. */
static const struct { long number; const char *name; enum kind kind; } CALLS[] = {
    {SYS_write, "write", FD}, {SYS_pwrite64, "pwrite64", FD}, {SYS_writev, "writev", FD},
    {SYS_pwritev, "pwritev", FD}, {SYS_fsync, "fsync", FD}, {SYS_fdatasync, "fdatasync", FD},
    {SYS_syncfs, "syncfs", FD}, {SYS_ftruncate, "ftruncate", FD}, {SYS_fallocate, "fallocate", FD},
    {SYS_sendfile, "sendfile", FD}, {SYS_renameat, "renameat", AT}, {SYS_renameat2, "renameat2", AT},
    {SYS_unlinkat, "unlinkat", AT}, {SYS_mkdirat, "mkdirat", AT}, {SYS_linkat, "linkat", TWO_AT},
    {SYS_symlinkat, "symlinkat", TWO_AT}, {SYS_openat, "openat", OPEN_AT},
#ifdef SYS_rename
    {SYS_rename, "rename", PATH}, {SYS_unlink, "unlink", PATH}, {SYS_mkdir, "mkdir", PATH},
    {SYS_rmdir, "rmdir", PATH}, {SYS_link, "link", TWO}, {SYS_symlink, "symlink", TWO}, {SYS_open, "open", OPEN},
    {SYS_creat, "creat", PATH},
#endif
};
#define COUNT (sizeof CALLS / sizeof *CALLS)

static void die(const char *what) { perror(what); exit(125); }

static void stop_at_those_calls(void) {
    struct sock_filter code[COUNT + 3];
    size_t n = 0;
    code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < COUNT; i++)
        code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, CALLS[i].number, COUNT - i, 0);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE);
    struct sock_fprog program = {.len = n, .filter = code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        die("seccomp");
}

static int text_of(pid_t pid, uint64_t address, char *out) {
    /* byte by byte over page ends: a path may end right before an unmapped page */
    size_t got = 0;
    while (got < PATH_MAX - 1) {
        size_t piece = 256 - (address + got) % 256;
        struct iovec here = {out + got, piece}, there = {(void *)(uintptr_t)(address + got), piece};
        if (got + piece > PATH_MAX - 1 || process_vm_readv(pid, &here, 1, &there, 1, 0) != (ssize_t)piece) return -1;
        if (memchr(out + got, 0, piece)) return 0;
        got += piece;
    }
    return -1;
}

static void link_of(pid_t pid, const char *what, char *out) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", pid, what);
    ssize_t n = readlink(path, out, PATH_MAX - 1);
    out[n < 0 ? 0 : n] = 0;
}

static void path_at(pid_t pid, int64_t fd, uint64_t address, char *out) {
    char name[PATH_MAX], what[32];
    out[0] = 0;
    if (text_of(pid, address, name)) return;
    if (name[0] == '/') { strcpy(out, name); return; }
    if ((int)fd == AT_FDCWD) strcpy(what, "cwd");
    else snprintf(what, sizeof what, "fd/%d", (int)fd);
    link_of(pid, what, out);
    size_t n = strlen(out);
    snprintf(out + n, PATH_MAX - n, "/%s", name);
}

static const char *changes(pid_t pid, const struct __ptrace_syscall_info *info, char *out) {
    const __typeof__(info->seccomp.args[0]) *a = info->seccomp.args;
    char what[32];
    out[0] = 0;
    for (size_t i = 0; i < COUNT; i++) {
        if (CALLS[i].number != (long)info->seccomp.nr) continue;
        switch (CALLS[i].kind) {
        case FD: snprintf(what, sizeof what, "fd/%d", (int)a[0]); link_of(pid, what, out); break;
        case PATH: path_at(pid, AT_FDCWD, a[0], out); break;
        case AT: path_at(pid, a[0], a[1], out); break;
        case TWO: path_at(pid, AT_FDCWD, a[1], out); break;
        case TWO_AT: path_at(pid, a[CALLS[i].number == SYS_linkat ? 2 : 1], a[CALLS[i].number == SYS_linkat ? 3 : 2], out); break;
        case OPEN: if (a[1] & (O_CREAT | O_TRUNC)) path_at(pid, AT_FDCWD, a[0], out); break;
        case OPEN_AT: if (a[2] & (O_CREAT | O_TRUNC)) path_at(pid, a[0], a[1], out); break;
        }
        return CALLS[i].name;
    }
    return "?";
}

int main(int argc, char **argv) {
    if (argc < 6) { fprintf(stderr, "usage: killer FOLDER WHEN one|all LOG COMMAND...\n"); return 125; }
    const char *folder = argv[1];
    long when = atol(argv[2]), number = 0;
    int all = !strcmp(argv[3], "all"), status, code = 125;
    FILE *log = fopen(argv[4], "we");
    if (!log) die(argv[4]);
    pid_t first = fork();
    if (first < 0) die("fork");
    if (first == 0) {
        raise(SIGSTOP); /* until we are followed */
        stop_at_those_calls();
        execvp(argv[5], argv + 5);
        die(argv[5]);
    }
    if (waitpid(first, &status, WUNTRACED) != first || !WIFSTOPPED(status)) die("waitpid");
    long options = PTRACE_O_TRACESECCOMP | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE |
                   PTRACE_O_EXITKILL;
    if (ptrace(PTRACE_SEIZE, first, 0, options)) die("PTRACE_SEIZE");
    kill(first, SIGCONT);
    for (;;) {
        pid_t pid = waitpid(-1, &status, __WALL);
        if (pid < 0) break; /* nobody is left */
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            if (pid == first) code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
            continue;
        }
        int sig = WSTOPSIG(status), event = status >> 16;
        if (event == PTRACE_EVENT_SECCOMP) {
            struct __ptrace_syscall_info info;
            char path[PATH_MAX];
            if (ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, &info) > 0) {
                const char *name = changes(pid, &info, path);
                size_t n = strlen(folder);
                if (pid != first && !strncmp(path, folder, n) && (path[n] == '/' || !path[n])) {
                    number++;
                    fprintf(log, "%ld %d %s %s\n", number, pid, name, path + n);
                    fflush(log);
                    if (number == when) {
                        if (all) return 137; /* EXITKILL ends everybody */
                        kill(pid, SIGKILL); /* its whole process; the call is not carried out */
                        continue;
                    }
                }
            }
            ptrace(PTRACE_CONT, pid, 0, 0);
        } else if (event == PTRACE_EVENT_STOP && sig != SIGTRAP) {
            ptrace(PTRACE_LISTEN, pid, 0, 0); /* a job-control stop stays one */
        } else {
            ptrace(PTRACE_CONT, pid, 0, event ? 0 : sig);
        }
    }
    return code;
}
