"""Mail to servers that others wrote, with STARTTLS, under enforced MTA-STS and DANE; and kept back when the certificate is wrong.

Debian's postfix, exim4 and opensmtpd exclude each other. Install one and put the others' folders behind it in PATH:
`apt-get download exim4-daemon-light opensmtpd`, `dpkg-deb -x PACKAGE.deb FOLDER`, `PATH=$PATH:FOLDER/usr/sbin`.
"""

from __future__ import annotations

import email
import email.policy
import hashlib
import http.server
import json
import os
import pwd
import shutil
import smtplib
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from posthouse.app import open_app
from posthouse.data_directory import DataDirectory
from posthouse.delivery import results_of_day
from posthouse.mail.reports.tls_report import TlsFailures
from posthouse.sandbox.ca import Authority, Certificate
from posthouse.settings import load_settings

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to run mail servers")

# What each domain's mail comes to. `mx.receiver.test` is the name on the server's certificate.
DOMAINS = ("sts.test", "wrong-sts.test", "dane.test", "wrong-dane.test", "free.test")
_BY_STS = """\
@ MX 10 {host}
_mta-sts TXT "v=STSv1; id=1"
mta-sts A 127.0.0.1
_smtp._tls TXT "v=TLSRPTv1; rua=mailto:tls@{domain}"
"""
_BY_DANE = """\
@ MX 10 mx
mx A 127.0.0.1
_25._tcp.mx TLSA 3 1 1 {digest}
_smtp._tls TXT "v=TLSRPTv1; rua=mailto:tls@{domain}"
"""
_SHELL = Path(__file__).with_name("receivers.sh")

_POSTFIX_MAIN = """\
compatibility_level = 3.6
queue_directory = {room}/queue
data_directory = {room}/data
mail_owner = postfix
setgid_group = postdrop
myhostname = mx.receiver.test
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
maillog_file = {room}/mail.log
maillog_file_prefixes = {room}
virtual_mailbox_domains = {domains}
virtual_mailbox_base = {room}
virtual_mailbox_maps = static:box/
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
smtpd_relay_restrictions = reject_unauth_destination
smtpd_tls_chain_files = {key}, {certificate}
smtpd_tls_security_level = may
smtpd_tls_received_header = yes
"""
_POSTFIX_MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""
_EXIM = """\
keep_environment =
exim_user = Debian-exim
exim_group = Debian-exim
spool_directory = {room}/spool
log_file_path = {room}/exim-%slog
primary_hostname = mx.receiver.test
daemon_smtp_ports = {port}
local_interfaces = 127.0.0.1
tls_advertise_hosts = *
tls_certificate = {certificate}
tls_privatekey = {key}
notifier_socket =
domainlist ours = {domains}
acl_smtp_rcpt = rcpt
acl_smtp_data = take
begin acl
rcpt:
  accept domains = +ours
  deny
take:
  accept
begin routers
box:
  driver = accept
  transport = box
begin transports
box:
  driver = appendfile
  directory = {room}/box
  maildir_format
  create_directory
  user = Debian-exim
  group = Debian-exim
"""
_OPENSMTPD = """\
pki receiver cert "{certificate}"
pki receiver key "{key}"
table people {{ "@" = "nobody" }}
listen on 127.0.0.1 port {port} tls pki receiver hostname mx.receiver.test
action "box" maildir "{room}/box" virtual <people>
match from any for domain {{ {domains} }} action "box"
"""


class Receiver(NamedTuple):
    """A mail server that runs. box: its maildir, for everybody; speaks_tls: whether a stranger's handshake with it works."""

    port: int
    box: Path
    speaks_tls: bool


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _postfix(room: Path, shown: Certificate, port: int) -> Iterator[None]:
    account = pwd.getpwnam("postfix")
    for name in ("config", "queue", "data", "box"):
        (room / name).mkdir()
    for name in ("data", "box"):
        os.chown(room / name, account.pw_uid, account.pw_gid)
    main = _POSTFIX_MAIN.format(
        room=room,
        uid=account.pw_uid,
        gid=account.pw_gid,
        domains=" ".join(DOMAINS),
        key=shown.key,
        certificate=shown.certificate,
    )
    (room / "config" / "main.cf").write_text(main, encoding="ascii")
    (room / "config" / "master.cf").write_text(_POSTFIX_MASTER.format(port=port), encoding="ascii")
    command = ["postfix", "-c", str(room / "config")]
    subprocess.run([*command, "start"], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run([*command, "stop"], check=False, capture_output=True)


@contextmanager
def _unpacked(room: Path, program: str, *arguments: str) -> Iterator[None]:
    """Run a server that may only be unpacked, in namespaces that end with it."""
    found = shutil.which(program)
    assert found is not None
    folder = Path(found).parents[2]
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    with (room / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [*namespaces, "sh", str(_SHELL), str(folder), str(room), program, *arguments], stdout=log, stderr=log
        )
    try:
        yield
    finally:
        # The first process of the namespace takes all others with it.
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        for child in children.read_text(encoding="ascii").split() if children.exists() else ():
            os.kill(int(child), 9)
        process.kill()
        process.wait()


@contextmanager
def _exim(room: Path, shown: Certificate, port: int) -> Iterator[None]:
    for name in ("box", "spool"):
        (room / name).mkdir()
        (room / name).chmod(0o777)
    room.chmod(0o777)
    key = room / "exim.key"
    key.write_bytes(shown.key.read_bytes())
    key.chmod(0o644)
    text = _EXIM.format(room=room, port=port, domains=" : ".join(DOMAINS), key=key, certificate=shown.certificate)
    (room / "exim4.conf").write_text(text, encoding="ascii")
    with _unpacked(room, "exim4", "-bdf", "-oP", str(room / "exim.pid")):
        yield


@contextmanager
def _opensmtpd(room: Path, shown: Certificate, port: int) -> Iterator[None]:
    (room / "box").mkdir()
    os.chown(room / "box", pwd.getpwnam("nobody").pw_uid, -1)
    domains = ", ".join(f'"{domain}"' for domain in DOMAINS)
    text = _OPENSMTPD.format(room=room, port=port, domains=domains, key=shown.key, certificate=shown.certificate)
    (room / "smtpd.conf").write_text(text, encoding="ascii")
    with _unpacked(room, "smtpd", "-d", "-f", str(room / "smtpd.conf")):
        yield


SERVERS: dict[str, tuple[str, Callable[[Path, Certificate, int], Any]]] = {
    "postfix": ("postfix", _postfix),
    "exim4": ("exim4", _exim),
    "opensmtpd": ("smtpd", _opensmtpd),
}


def _speaks_tls(port: int, log: Path) -> bool:
    """Waits until the server answers, and tries a handshake."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            with smtplib.SMTP("127.0.0.1", port, timeout=10) as client:
                client.starttls(context=context)
        except ssl.SSLError:
            return False
        except (OSError, smtplib.SMTPException):
            time.sleep(0.1)
        else:
            return True
    raise AssertionError(log.read_text(encoding="utf-8") if log.exists() else "The server does not answer.")


class Certificates(NamedTuple):
    """authority: the file of the one that is trusted; mail and web: what the servers show; digest: of the mail server's key."""

    authority: Path
    mail: Certificate
    web: Certificate
    digest: str


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that other accounts may enter; pytest closes its own to them whenever another session of it begins."""
    with tempfile.TemporaryDirectory(prefix="posthouse-test-", ignore_cleanup_errors=True) as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def certificates(place: Path) -> Certificates:
    folder = place / "certificates"
    folder.mkdir()
    made = Authority(folder)
    mail = made.issue("mail", ["mx.receiver.test"])
    key = x509.load_pem_x509_certificate(mail.certificate.read_bytes()).public_key()
    digest = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
    return Certificates(made.certificate_file, mail, made.issue("web", [f"mta-sts.{d}" for d in DOMAINS]), digest)


@pytest.fixture(params=sorted(SERVERS))
def receiver(request: pytest.FixtureRequest, place: Path, certificates: Certificates) -> Iterator[Receiver]:
    program, run = SERVERS[request.param]
    if shutil.which(program) is None:
        pytest.skip(f"needs Debian's {request.param}")
    room = place / "receiver"
    room.mkdir()
    port = _free_port()
    with run(room, certificates.mail, port):
        yield Receiver(port, room / "box", _speaks_tls(port, room / "server.log"))


class _Policy(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        domain = self.headers["Host"].partition(":")[0].removeprefix("mta-sts.")
        host = "mx.receiver.test" if domain == "sts.test" else f"mx.{domain}"
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(f"version: STSv1\nmode: enforce\nmx: {host}\nmax_age: 86400\n".encode())

    def log_message(self, *_: object) -> None:
        return None


@pytest.fixture
def policy_port(certificates: Certificates) -> Iterator[int]:
    """A web server with the MTA-STS policies: each domain's server must prove the name that its MX has."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Policy)
    server.socket = certificates.web.server_context().wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def posthouse(data: Path, *arguments: str, **settings: str) -> str:
    """Run the program; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "posthouse.cli", *arguments, "--data", str(data)],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def received(box: Path, count: int) -> dict[str, str]:
    """recipient's domain → the newest Received field, of everything in the maildir, when there are `count`."""
    deadline = time.monotonic() + 30
    while len(found := list((box / "new").glob("*"))) < count and time.monotonic() < deadline:
        time.sleep(0.05)
    messages = [email.message_from_bytes(file.read_bytes(), policy=email.policy.default) for file in found]
    return {str(each["To"]).rpartition("@")[2]: str(each["Received"]) for each in messages}


async def test_mail_goes_where_the_certificate_is_right_and_stays_where_it_is_wrong(
    receiver: Receiver,
    certificates: Certificates,
    policy_port: int,
    validating_dns: Callable[..., str],
    database_url: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nameserver = validating_dns(
        signed={
            "dane.test": _BY_DANE.format(domain="dane.test", digest=certificates.digest),
            "wrong-dane.test": _BY_DANE.format(domain="wrong-dane.test", digest="ab" * 32),
        },
        plain={
            "sts.test": _BY_STS.format(domain="sts.test", host="mx.receiver.test."),
            "wrong-sts.test": _BY_STS.format(domain="wrong-sts.test", host="mx") + "mx A 127.0.0.1\n",
            "free.test": "@ MX 10 mx.receiver.test.\n",
            "receiver.test": "mx A 127.0.0.1\n",
        },
    )
    people = place / "people.csv"
    people.write_text("email\n" + "".join(f"ann@{domain}\n" for domain in DOMAINS), encoding="ascii")
    letter = place / "letter.html"
    letter.write_text("<p>Hello {{ postal_address }} <a href='{{ unsubscribe_url }}'>Leave</a></p>", encoding="ascii")
    data = place / "data"
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
    settings = {
        "POSTHOUSE_DATABASE_URL": database_url,
        "POSTHOUSE_DNS_NAMESERVERS": nameserver,
        "POSTHOUSE_DNS_VALIDATING": "true",
        "POSTHOUSE_DELIVERY_PORT": str(receiver.port),
        "POSTHOUSE_DELIVERY_ALLOW_PRIVATE_ADDRESSES": "true",
        "POSTHOUSE_DELIVERY_MTA_STS_PORT": str(policy_port),
        # A message that is deferred outlives its life at once, so that the campaign ends.
        "POSTHOUSE_DELIVERY_LIFE_HOURS": "0.2",
        "POSTHOUSE_SENDER_POSTAL_ADDRESS": "1 Coach Road, Sampletown",
        "POSTHOUSE_PUBLIC_LISTEN": "127.0.0.1:0",
        "POSTHOUSE_INBOUND_LISTEN": "127.0.0.1:0",
    }
    posthouse(data, "init")
    posthouse(data, "domain", "add", "example.com", **settings)
    posthouse(data, "domain", "verify", "example.com", "--force", **settings)
    posthouse(data, "contacts", "import", str(people), "--list", "News", **settings)
    sending = ("campaign", "send", "--list", "News", "--template", str(letter), "--subject", "Hello")
    report = json.loads(
        posthouse(data, *sending, "--from", "News <news@example.com>", "--yes", "--wait", "--json", **settings)
    )
    outcomes, told = await _looked_up(data, settings)
    if not receiver.speaks_tls:
        # Debian 12's OpenSMTPD offers STARTTLS and cannot do it with OpenSSL 3: only who needs no encryption is served.
        assert outcomes.pop("wrong-sts.test") == "certificate-name"
        assert outcomes == {
            "sts.test": "tls-failed",
            "dane.test": "tls-failed",
            "wrong-dane.test": "tls-failed",
            "free.test": None,
        }
        assert set(received(receiver.box, 1)) == {"free.test"}
        return
    assert (report["total"]["delivered"], report["total"]["expired"]) == (3, 2)
    assert outcomes == {
        "sts.test": None,
        "dane.test": None,
        "free.test": None,
        "wrong-sts.test": "certificate-name",
        "wrong-dane.test": "tlsa-mismatch",
    }
    counts = {domain: (each.kind, each.successful, *each.failures) for domain, found in told.items() for each in found}
    assert counts == {
        "sts.test": ("sts", 1),
        "dane.test": ("tlsa", 1),
        "wrong-sts.test": ("sts", 0, TlsFailures("certificate-host-mismatch", "mx.wrong-sts.test", 1)),
        "wrong-dane.test": ("tlsa", 0, TlsFailures("tlsa-invalid", "mx.wrong-dane.test", 1)),
    }
    arrived = received(receiver.box, 3)
    assert set(arrived) == {"sts.test", "dane.test", "free.test"}
    assert all("TLS" in field for field in arrived.values())


async def _looked_up(data: Path, settings: dict[str, str]) -> tuple[dict[str, str | None], dict[str, Any]]:
    """domain → the rule that decided the last attempt (None: delivered); domain → what its TLS report of today says."""
    directory = DataDirectory(data)
    async with open_app(directory, load_settings(directory.settings_file, settings)) as app:
        rows = await app.db.fetch(
            "select split_part(c.email, '@', 2) as domain, e.detail ->> 'rule' as rule from ledger e "
            "join contacts c using (workspace_id, contact_id) where e.kind in ('delivered', 'expired')"
        )
        told = {domain: await results_of_day(app.db, app.clock.now().date(), domain) for domain in DOMAINS}
    return {row["domain"]: row["rule"] for row in rows}, told
