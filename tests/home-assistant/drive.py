"""Sets up Home Assistant as docs/clients.md describes, by the calls that its pages make, and asks the agent.

    drive.py PHI4D CONFIG_FOLDER HOME_ASSISTANT_COMMAND...

Both programs are to be alone in a network of their own: ports are fixed.
"""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

HOME = "http://127.0.0.1:8123"
DAEMON = "http://127.0.0.1:8484"
QUESTION = "What is 12+7?"


def call(base, path, body=None, token=None, form=False):
    """Sends a request, a POST if there is a body, and returns the answer's JSON."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    data = None
    if body is not None:
        data = (urllib.parse.urlencode(body) if form else json.dumps(body)).encode()
        headers["Content-Type"] = (
            "application/x-www-form-urlencoded" if form else "application/json"
        )
    request = urllib.request.Request(base + path, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{path}: {error.code} {error.read().decode()}") from error


def wait_for(base, path, process, seconds):
    """Waits until something answers there at all."""
    until = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(base + path, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            if process.poll() is not None:
                raise SystemExit(f"{process.args[0]} ended with {process.returncode}")
            if time.monotonic() > until:
                raise SystemExit(f"nothing answers at {base} after {seconds} s")
            time.sleep(0.2)


def sign_in():
    """The first user, as the first page makes one, and its token."""
    client = HOME + "/"
    user = {"client_id": client, "name": "Test", "username": "test", "password": "test", "language": "en"}
    code = call(HOME, "/api/onboarding/users", user)["auth_code"]
    grant = {"client_id": client, "grant_type": "authorization_code", "code": code}
    return call(HOME, "/auth/token", grant, form=True)["access_token"]


def expect(condition, what):
    if not condition:
        raise SystemExit(f"not as expected: {what}")


def options(form, field):
    """What a field of a form offers."""
    schema = next(entry for entry in form["data_schema"] if entry["name"] == field)
    return [option["value"] for option in schema["selector"]["select"]["options"]]


def add(token, entry, kind, chosen):
    """Adds an agent or a task to the integration, as a button on its page does; returns its entity."""
    before = entities(token)
    flows = "/api/config/config_entries/subentries/flow"
    form = call(HOME, flows, {"handler": [entry, kind]}, token)
    model = call(DAEMON, "/api/tags")["models"][0]["model"]
    expect(options(form, "model")[0] == model, form)
    made = call(HOME, f"{flows}/{form['flow_id']}", {"model": model, **chosen}, token)
    expect(made["type"] == "create_entry", made)

    until = time.monotonic() + 30
    while True:
        new = [name for name in entities(token) - before if name.split(".")[0] in kind]
        if new:
            return new[0]
        expect(time.monotonic() < until, f"{kind} never came up")
        time.sleep(0.1)


def entities(token):
    return {state["entity_id"] for state in call(HOME, "/api/states", token=token)}


def ask(token, agent, text, conversation=None):
    body = {"text": text, "agent_id": agent, "language": "en"}
    if conversation:
        body["conversation_id"] = conversation
    answer = call(HOME, "/api/conversation/process", body, token)
    said = answer["response"]["speech"]["plain"]["speech"]
    expect(answer["response"]["response_type"] == "action_done", answer)
    print(f"{agent}: {text} -> {said}")
    return said, answer["conversation_id"]


def use(token):
    """What the manual's page says, and what the agent and the task answer then."""
    flows = "/api/config/config_entries/flow"
    form = call(HOME, flows, {"handler": "ollama"}, token)
    made = call(HOME, f"{flows}/{form['flow_id']}", {"url": DAEMON}, token)
    expect(made["type"] == "create_entry", made)
    entry = made["result"]["entry_id"]

    plain = {"name": "Phi", "prompt": "You are a helpful assistant.", "num_ctx": 8192}
    agent = add(token, entry, "conversation", plain)
    said, conversation = ask(token, agent, QUESTION)
    expect("19" in said, said)
    said, again = ask(token, agent, "What is 3+4?", conversation)
    expect(again == conversation and said, said)

    # With the functions that turn lights on and off: a small model may not choose any.
    assist = {"name": "House", "llm_hass_api": ["assist"]}
    said, _ = ask(token, add(token, entry, "conversation", assist), QUESTION)
    expect(said, "an answer beside functions")

    # A task's answer has the form that the task gives it.
    task = {
        "task_name": "sum",
        "instructions": QUESTION,
        "entity_id": add(token, entry, "ai_task_data", {"name": "Tasks"}),
        "structure": {"sum": {"selector": {"number": {"min": 0, "max": 99}}, "required": True}},
    }
    answer = call(HOME, "/api/services/ai_task/generate_data?return_response", task, token)
    data = answer["service_response"]["data"]
    print(f"{task['entity_id']}: {data}")
    expect(isinstance(data["sum"], (int, float)), answer)


def main():
    phi4d, config, *command = sys.argv[1:]
    with open(os.path.join(config, "configuration.yaml"), "w") as file:
        file.write("http:\n  server_host: 127.0.0.1\napi:\nauth:\nonboarding:\nconfig:\nconversation:\n")
    serve = [phi4d, "serve", "--model", "models/demo", "--listen", "127.0.0.1:8484", "--default-temperature", "0"]
    daemon = subprocess.Popen([*serve, "--socket", os.path.join(config, "phi4d.sock"), "--log-level", "warn"])
    log = os.path.join(config, "output")
    with open(log, "w") as output:
        home = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        wait_for(DAEMON, "/ready", daemon, 60)
        wait_for(HOME, "/api/onboarding", home, 180)
        use(sign_in())
    except BaseException:
        with open(log) as output:
            sys.stderr.write(output.read())
        raise
    finally:
        home.terminate()
        daemon.terminate()
        home.wait(60)
        daemon.wait(60)


main()
