#!/bin/sh
# Runs two HAProxy processes that share the ports, and starts one again that was killed. The kernel then gives new
# connections to the other one, so that only the requests in flight in the killed process are lost.

folder=${0%/*}

# Runs process $1, with its status on port $2, until a soft stop. A HAProxy that exits with an error has a wrong
# configuration: no restart would help, so the container exits with it and Kubernetes reports it.
supervise() {
  stopping=
  trap 'stopping=yes; kill -USR1 "$pid"' USR1
  while :; do
    MLMODEL_PROCESS=$1 MLMODEL_STATUS_PORT=$2 haproxy -db -f "$folder/haproxy.cfg" &
    pid=$!
    # A signal interrupts `wait`; the second one then has the code of HAProxy.
    wait "$pid"
    code=$?
    while kill -0 "$pid" 2>/dev/null; do
      wait "$pid"
      code=$?
    done
    if [ -n "$stopping" ] || [ "$code" -le 128 ]; then
      exit "$code"
    fi
  done
}

supervise 1 9090 &
first=$!
supervise 2 9091 &
second=$!
# SIGUSR1 is the stop signal of the image; SIGTERM and SIGINT do the same in a terminal.
trap 'kill -USR1 "$first" "$second" 2>/dev/null' USR1 TERM INT
for process in "$first" "$second"; do
  while kill -0 "$process" 2>/dev/null; do
    wait "$process"
    code=$?
  done
  if [ "${code:-0}" -ne 0 ]; then
    kill -USR1 "$second" 2>/dev/null
    exit "$code"
  fi
done
