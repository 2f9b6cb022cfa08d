#!/bin/sh
# Run a mail server as if it alone were installed. Debian lets only one be, so others are unpacked: `dpkg-deb -x PACKAGE.deb FOLDER`.
# Usage, in mount and process namespaces of its own: receivers.sh FOLDER ROOM COMMAND...
# The command sees this machine through a copy-on-write view with the unpacked files over it; only ROOM is the real one.
set -eu
unpacked=$1 room=$2
shift 2
view=$(mktemp -d -p "$room")
mount -t tmpfs none "$view"
mkdir "$view/upper" "$view/work" "$view/root" "$view/unpacked"
cp -a "$unpacked/usr" "$view/unpacked/"
mount -t overlay overlay -o "lowerdir=$view/unpacked:/,upperdir=$view/upper,workdir=$view/work" "$view/root"
root=$view/root
mkdir -p "$root$room"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount --bind "$room" "$root$room"
for name in Debian-exim opensmtpd opensmtpq; do
    if ! grep -q "^$name:" "$root/etc/passwd"; then
        id=$((60000 + $(wc -l <"$root/etc/passwd")))
        echo "$name:x:$id:$id::/nonexistent:/bin/false" >>"$root/etc/passwd"
        echo "$name:x:$id:" >>"$root/etc/group"
    fi
done
mkdir -p "$root/var/lib/opensmtpd/empty" "$root/run" "$root/etc/exim4"
install -d -m 0711 "$root/var/spool/smtpd"
# Exim trusts its configuration only where it was built to look for it.
[ ! -f "$room/exim4.conf" ] || cp "$room/exim4.conf" "$root/etc/exim4/exim4.conf"
exec chroot "$root" "$@"
