/* CLOCK_BOOTTIME, moved ahead by as many milliseconds as the file BOOTTIME_OFFSET_FILE says: for LD_PRELOAD into a process of
 * a story.
 *
 * The binary asks the kernel's vDSO for it, without libc. So the function there is replaced: its first instructions, in this
 * process's own copy of the page, become a jump to the one below. It allocates nothing and takes no lock, since allocators
 * ask for the time as well. Other clocks are what they were.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#define NAME "__vdso_clock_gettime"
#define VERSION "LINUX_2.6"
/* movabs $address, %rax; jmp *%rax */
static const unsigned char before[] = {0x48, 0xb8}, after[] = {0xff, 0xe0};
#elif defined(__aarch64__)
#define NAME "__kernel_clock_gettime"
#define VERSION "LINUX_2.6.39"
/* ldr x16, .+8; br x16; the address */
static const unsigned char before[] = {0x50, 0x00, 0x00, 0x58, 0x00, 0x02, 0x1f, 0xd6}, after[] = {};
#endif

static long offset(void) {
	const char *path = getenv("BOOTTIME_OFFSET_FILE");
	char text[32];
	long milliseconds = 0;
	int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	if (file < 0)
		return 0;
	ssize_t length = read(file, text, sizeof text);
	close(file);
	for (ssize_t at = 0; at < length; at++) {
		if (text[at] >= '0' && text[at] <= '9')
			milliseconds = milliseconds * 10 + (text[at] - '0');
	}
	return milliseconds;
}

static int moved(clockid_t clock, struct timespec *time) {
	int kept = errno;
	if (syscall(SYS_clock_gettime, clock, time) != 0) {
		int error = errno;
		errno = kept;
		return -error;
	}
	if (clock == CLOCK_BOOTTIME) {
		long ahead = offset();
		time->tv_sec += ahead / 1000;
		time->tv_nsec += ahead % 1000 * 1000000;
		if (time->tv_nsec >= 1000000000) {
			time->tv_sec++;
			time->tv_nsec -= 1000000000;
		}
	}
	errno = kept;
	return 0;
}

__attribute__((constructor)) static void replace(void) {
	void *kernel = dlopen("linux-vdso.so.1", RTLD_LAZY | RTLD_NOLOAD);
	unsigned char *at = kernel ? dlvsym(kernel, NAME, VERSION) : NULL;
	uintptr_t to = (uintptr_t)moved, page = (uintptr_t)sysconf(_SC_PAGESIZE), first = (uintptr_t)at & ~(page - 1);
	if (!at || mprotect((void *)first, 2 * page, PROT_READ | PROT_WRITE | PROT_EXEC) != 0) {
		perror("the vDSO cannot be changed");
		abort();
	}
	memcpy(at, before, sizeof before);
	memcpy(at + sizeof before, &to, sizeof to);
	memcpy(at + sizeof before + sizeof to, after, sizeof after);
	__builtin___clear_cache((char *)at, (char *)at + 32);
}
