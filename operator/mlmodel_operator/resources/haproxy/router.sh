#!/bin/sh
# Runs two HAProxy processes that share the ports, and starts one again that was killed. The kernel then gives new
# connections to the other one, so that only the requests in flight in the killed process are lost.

folder=${0%/*}

# Waits for child $1 to exit, and sets `code` to its exit code; a signal only interrupts `wait`.
finish() {
  wait "$1"
  code=$?
  while kill -0 "$1" 2>/dev/null; do
    wait "$1"
    code=$?
  done
}

# Stops HAProxy softly when routes.lua has removed the file `stop`: no request in flight needs the proxies that HAProxy
# closes. If this takes longer than 6 s, it stops all the same: with `preStop` and `hard-stop-after` that fits into the
# grace period of the pod.
# shellcheck disable=SC2329 # called by the trap below
stop_softly() {
  tries=0
  while [ -f "$stop" ] && [ "$tries" -lt 60 ]; do
    sleep 0.1
    tries=$((tries + 1))
  done
  kill -USR1 "$pid"
}

# Runs process $1, with its status on port $2, until a soft stop. An error is a wrong configuration: no restart would
# help. So, and after many restarts, the other process is stopped too, and Kubernetes reports the container.
supervise() {
  stopping=''
  restarts=0
  stop=$folder/stop-$1
  rm -f "$stop" # of a container before
  # Not `:`, with which a file that cannot be written would end the shell, and HAProxy with it.
  trap '[ -n "$stopping" ] || { true >"$stop"; stop_softly & stopping=$!; }' USR1
  while :; do
    MLMODEL_PROCESS=$1 MLMODEL_STATUS_PORT=$2 MLMODEL_STOP=$stop haproxy -db -f "$folder/haproxy.cfg" &
    pid=$!
    finish "$pid"
    if [ -n "$stopping" ]; then
      kill "$stopping" 2>/dev/null
      exit "$code"
    fi
    restarts=$((restarts + 1))
    if [ "$code" -le 128 ] || [ "$restarts" -ge 50 ]; then
      kill -USR2 $$
      exit "$code"
    fi
  done
}

# No process starts with a certificate that cannot be used: the reason goes to where Kubernetes reads it. The log names
# the cause.
if [ -n "${MLMODEL_TLS:-}" ] && ! found=$(haproxy -c -f "$folder/haproxy.cfg" </dev/null 2>&1); then
  echo "$found" >&2
  case $found in
    *tls.crt* | *tls.key*)
      printf '%s' "the certificate cannot be used: write tls.crt and tls.key of the Secret in spec.traffic.tls again, a" \
        " PEM chain and the private key of its first certificate, without a password" \
        >"${MLMODEL_TERMINATION_LOG:-/dev/termination-log}"
      ;;
  esac
  exit 1
fi

supervise 1 9090 &
first=$!
supervise 2 9091 &
second=$!
# SIGUSR1 is the stop signal of the image, SIGTERM and SIGINT do the same in a terminal; SIGUSR2 comes from above.
trap 'kill -USR1 "$first" "$second" 2>/dev/null' USR1 USR2 TERM INT
result=0
for process in "$first" "$second"; do
  finish "$process"
  # The code of an error, rather than that of the process that was stopped because of it.
  if [ "$code" -ne 0 ] && { [ "$result" -eq 0 ] || [ "$result" -gt 128 ]; }; then
    result=$code
  fi
done
exit "$result"
