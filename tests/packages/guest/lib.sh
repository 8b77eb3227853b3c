# What the tests inside the booted system share. To be sourced.
# shellcheck shell=bash
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive

socket=/run/phi4d/phi4d.sock
api=http://localhost/v1/chat/completions
question='"messages":[{"role":"user","content":"What is 12+7?"}],"temperature":0'

say() { echo "    $*"; }
fail() {
    echo "FAILED: $*" >&2
    exit 1
}

# Tries a command until it succeeds, for so many seconds.
within() {
    local seconds=$1 end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || fail "not within $seconds s: $*"
        sleep 0.1
    done
}

post() { curl --silent --show-error --fail --max-time 60 --unix-socket "$socket" "$api" --json "$@"; }

# One question with a known answer.
chat() {
    local answer
    answer=$(post "{$question}") || fail "no answer: $answer"
    [[ $answer == *'"content":"19"'* ]] || fail "not the answer: $answer"
}

state() { systemctl show --property="$1" --value phi4d.service; }

expect() { # VALUE COMMAND...
    local want=$1 got
    shift
    got=$("$@" 2>/dev/null) || true
    [ "$got" = "$want" ] || fail "$* gives '$got', not '$want'"
}

# Whether the service's journal has these words.
says() { [[ $(journalctl --unit=phi4d --no-pager) == *"$1"* ]]; }

no_failed_units() {
    local failed
    failed=$(systemctl list-units --failed --plain --no-legend)
    [ -z "$failed" ] || fail "failed units: $failed"
}

# Asks for a long answer, reads its beginning, and the rest once FILE.go is there. It is longer than
# what the sockets and pipes between hold (each token comes with its alternatives, 1 to 2 kB), so it is
# under way until then, however fast the model is. $client is who reads.
begin_stream() { # FILE
    rm -f "$1" "$1.go"
    stream "$1" &
    client=$!
    within 10 under_way "$1"
}
stream() {
    local long='"stream":true,"ignore_eos":true,"max_tokens":1500,"logprobs":true,"top_logprobs":20'
    post "{$question,$long}" --no-buffer | {
        local line
        for _ in {1..20}; do
            read -r line
            printf '%s\n' "$line"
        done >"$1"
        within 60 test -e "$1.go"
        cat >>"$1"
    }
}
under_way() { [ -s "$1" ] && [ "$(wc -l <"$1")" -ge 20 ]; }
stopping() { [ "$(state ActiveState)" = deactivating ]; }
# Lets a stream go on when the service has begun to stop.
go_on_at_stop() { # FILE
    within 60 stopping
    touch "$1.go"
}
whole() { # FILE
    tail -n 2 "$1" | grep -qx 'data: \[DONE\]' || fail "a stream was cut: $(tail -c 300 "$1")"
}

# The tests restart more often than the unit lets a failing service do.
restart() {
    systemctl reset-failed phi4d.service
    systemctl restart phi4d.service
}

# A drop-in of the service for a while.
settings_for_test() {
    mkdir -p /run/systemd/system/phi4d.service.d
    printf '%s\n' '[Service]' "$@" >/run/systemd/system/phi4d.service.d/test.conf
    systemctl daemon-reload
}
no_settings_for_test() {
    rm -rf /run/systemd/system/phi4d.service.d
    systemctl daemon-reload
}

timed() { # WORDS COMMAND...: runs it, with what it prints in /tmp/said
    local words=$1 from=${EPOCHREALTIME/./}
    shift
    "$@" >/tmp/said 2>/tmp/errors </dev/null || fail "$*: $(cat /tmp/said /tmp/errors)"
    [[ $(cat /tmp/said /tmp/errors) == *"$words"* ]] || fail "$* says: $(cat /tmp/said /tmp/errors)"
    say "$*: $(((${EPOCHREALTIME/./} - from) / 1000)) ms"
}
