/* The wall clock, moved by as many seconds as the file CLOCK_OFFSET_FILE says: for LD_PRELOAD into a process of a story.
 *
 * Only CLOCK_REALTIME moves: what counts time by the monotonic clock must not notice. It allocates nothing and takes no
 * lock, since allocators ask for the time as well.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long offset(void) {
	const char *path = getenv("CLOCK_OFFSET_FILE");
	char text[32];
	long seconds = 0, sign = 1;
	int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	if (file < 0)
		return 0;
	ssize_t length = read(file, text, sizeof text);
	close(file);
	for (ssize_t at = 0; at < length; at++) {
		if (text[at] == '-')
			sign = -1;
		else if (text[at] >= '0' && text[at] <= '9')
			seconds = seconds * 10 + (text[at] - '0');
	}
	return sign * seconds;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
	int result = (int)syscall(SYS_clock_gettime, clock, time);
	if (result == 0 && clock == CLOCK_REALTIME)
		time->tv_sec += offset();
	return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
	struct timespec now;
	(void)zone;
	clock_gettime(CLOCK_REALTIME, &now);
	time->tv_sec = now.tv_sec;
	time->tv_usec = now.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *to) {
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	if (to)
		*to = now.tv_sec;
	return now.tv_sec;
}
