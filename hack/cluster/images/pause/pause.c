/* Keeps the namespaces of a pod open until SIGTERM or SIGINT; reaps the orphans of a shared PID namespace. */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void end(int signal) {
  (void)signal;
  _exit(0);
}

static void reap(int signal) {
  (void)signal;
  while (waitpid(-1, 0, WNOHANG) > 0)
    ;
}

int main(void) {
  sigaction(SIGINT, &(struct sigaction){.sa_handler = end}, 0);
  sigaction(SIGTERM, &(struct sigaction){.sa_handler = end}, 0);
  sigaction(SIGCHLD, &(struct sigaction){.sa_handler = reap, .sa_flags = SA_NOCLDSTOP}, 0);
  for (;;)
    pause();
}
