# The running service's life, the same for every kind of package. To be sourced after lib.sh.
# shellcheck shell=bash

activation() {
    systemctl stop phi4d.service 2>/dev/null
    expect inactive systemctl is-active phi4d.service
    chat
    expect active systemctl is-active phi4d.service
    say "a request on the socket started it again"
}

readiness() {
    restart
    expect 200 curl --silent --output /dev/null --write-out '%{http_code}' --max-time 2 --unix-socket "$socket" http://localhost/ready
    settings_for_test Environment=PHI4D_MODEL=/nowhere
    if restart 2>/dev/null; then fail "started without a model"; fi
    expect failed systemctl is-active phi4d.service
    expect 66 state ExecMainStatus
    no_settings_for_test
    systemctl reset-failed phi4d.service
    restart
    chat
    say "ready when it can answer; without its model never"
}

watchdog() {
    settings_for_test WatchdogSec=2 RestartSec=0
    restart
    chat
    local before
    before=$(state MainPID)
    kill -STOP "$before"
    within 30 restarted "$before"
    chat
    within 10 says "Watchdog timeout"
    no_settings_for_test
    restart
    say "a stuck daemon was killed and came back"
}
restarted() { [ "$(state ActiveState)" = active ] && [ "$(state NRestarts)" -ge 1 ] && [ "$(state MainPID)" != "$1" ]; }

drain() {
    begin_stream /tmp/stream
    go_on_at_stop /tmp/stream &
    systemctl stop phi4d.service 2>/dev/null
    wait "$client" || fail "the stream broke"
    whole /tmp/stream
    grep -q '"finish_reason":"length"' /tmp/stream || fail "no finish reason"
    expect 0 state ExecMainStatus
    expect success state Result
    say "a stop let the running stream end"
}

journal() {
    post "{$question}" --header 'X-Request-Id: named-by-the-test' >/dev/null
    within 5 has_entry
    local entry
    entry=$(journalctl --unit=phi4d --output=json REQUEST_ID=named-by-the-test)
    for field in CALLER STATUS END DURATION_MS PROMPT_TOKENS COMPLETION_TOKENS; do
        [[ $entry == *"\"$field\":"* ]] || fail "no field $field: $entry"
    done
    [[ $entry != *"12+7"* ]] || fail "the prompt is in the journal"
    if says "has not moved"; then fail "the engine was taken for stuck"; fi
    say "the journal has the request's fields"
}
has_entry() { [[ $(journalctl --unit=phi4d --output=json REQUEST_ID=named-by-the-test) == *REQUEST_ID* ]]; }

reload() {
    rm -f /tmp/asked /tmp/lost
    local loads=() before
    before=$(state MainPID)
    touch /tmp/go
    for _ in 1 2 3 4; do
        load &
        loads+=($!)
    done
    for _ in 1 2 3 4 5; do
        systemctl reload phi4d.service
        sleep 0.3
    done
    rm /tmp/go
    wait "${loads[@]}"
    [ ! -s /tmp/lost ] || fail "lost over reloads: $(cat /tmp/lost)"
    within 10 says "reload: settings, keys and certificates were read again"

    echo 'no_such_setting = 1' >/etc/phi4d/conf.d/wrong.toml
    systemctl reload phi4d.service || true
    within 10 says "reload: refused"
    rm /etc/phi4d/conf.d/wrong.toml
    chat
    expect active systemctl is-active phi4d.service
    expect "$before" state MainPID
    say "5 reloads under load, $(wc -l </tmp/asked) requests, none lost"
}
# Asks until /tmp/go is gone; what goes wrong is written to /tmp/lost.
load() {
    while [ -e /tmp/go ]; do
        echo asked >>/tmp/asked
        (chat) 2>>/tmp/lost || echo lost >>/tmp/lost
    done
}

home() {
    local strange
    strange=$(find /var/lib/phi4d -mindepth 1 ! -path '/var/lib/phi4d/models*' ! -path '/var/lib/phi4d/prefixes*')
    [ -z "$strange" ] || fail "in the daemon's home: $strange"
    [ ! -e /root/.cache ] || fail "in root's home: $(find /root/.cache)"
    say "nothing strange in the home"
}

tcp_on() {
    systemctl stop phi4d.service 2>/dev/null
    systemctl enable --now --quiet phi4d-http.socket
    systemctl start phi4d.service
}
tcp() {
    local open
    open=$(awk 'NR > 1 && $4 == "0A"' /proc/net/tcp /proc/net/tcp6)
    [ -z "$open" ] || fail "TCP ports are open: $open"
    tcp_on
    curl --silent --fail --max-time 10 --output /dev/null http://127.0.0.1:8484/v1/models || fail "no TCP"
    chat
    systemctl disable --now --quiet phi4d-http.socket
    restart
    say "no TCP before it is turned on; then on loopback"
}

instance() {
    printf 'model = "/usr/share/phi4d/demo"\nmodel_name = "second"\nlisten = "off"\n' >/etc/phi4d/second.toml
    systemctl start phi4d@second.service
    local models
    models=$(curl --silent --fail --max-time 10 --unix-socket /run/phi4d-second/phi4d.sock http://localhost/v1/models) || true
    [[ $models == *'"id":"second"'* ]] || fail "the second daemon does not answer: $models"
    chat
    systemctl stop phi4d@second.service
    rm /etc/phi4d/second.toml
    say "a second daemon serves beside the first"
}

pages() {
    for page in man1/phi4d.1 man5/phi4d.toml.5 man8/phi4d.service.8; do
        gzip --test "/usr/share/man/$page.gz" || fail "no page $page"
    done
}

units() {
    local said
    said=$(journalctl --no-pager _PID=1 | grep -E 'phi4d[^ ]*:[0-9]+: ' || true)
    [ -z "$said" ] || fail "systemd complains of the units: $said"
}

service_life() {
    pages
    units
    activation
    readiness
    watchdog
    drain
    journal
    reload
    tcp
    instance
    home
    no_failed_units
}
