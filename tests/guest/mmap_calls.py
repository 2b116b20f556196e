# The calls of python's own test_mmap, for pythons that come without it: every kind of mapping, every method, what is refused. Prints
# what it finds; works in the current directory.
import mmap
import os

PAGE = mmap.PAGESIZE


def attempt(what, call):
    try:
        print(what, "->", call())
    except Exception as error:
        print(what, "->", type(error).__name__)


def shared(name):
    with open(name, "wb") as f:
        f.write(b"\0" * PAGE + b"foo" + b"\0" * (PAGE - 3))
    with open(name, "r+b") as f:
        m = mmap.mmap(f.fileno(), 2 * PAGE)
        print(len(m), m.size(), m.find(b"foo") == PAGE, m[PAGE : PAGE + 3], m[0])
        m[0:3] = b"bar"
        m[PAGE] = ord("g")
        print(m[0:4], m[PAGE : PAGE + 3], m.rfind(b"g") == PAGE)
        m.flush()
        m.flush(PAGE, PAGE)
        attempt("flush at half a page", lambda: m.flush(PAGE // 2, PAGE))
        m.seek(-1, os.SEEK_END)
        m.write_byte(7)
        attempt("write past the end", lambda: m.write(b"x"))
        m.seek(0)
        print(m.read(3), m.tell(), m.read_byte(), m.readline()[:2])
        m.move(10, 0, 3)
        print(m[8:14])
        attempt("move out of bounds", lambda: m.move(2 * PAGE - 1, 0, 3))
        m.resize(PAGE * 5)
        print(len(m), m.size(), m[PAGE * 4], m[10:13])
        m[PAGE * 5 - 1] = 1
        m.resize(PAGE // 2)
        print(len(m), os.fstat(f.fileno()).st_size, m[0:3])
        m.close()
        attempt("use after close", lambda: m[0])
    with open(name, "rb") as f:
        print(f.read(16))


def private(name):
    with open(name, "wb") as f:
        f.write(b"abc" * 5000)
    with open(name, "r+b") as f:
        copy = mmap.mmap(f.fileno(), 15000, access=mmap.ACCESS_COPY)
        copy[0:6] = b"PRIVAT"
        with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_WRITE) as m:
            m[3:6] = b"SHA"
            m[14999] = 33
            print(copy[0:9], copy[-1], m[0:9], m[-1])
        attempt("resize of a copy", lambda: copy.resize(20000))
        copy.close()
    with open(name, "rb") as f:
        m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        print(m[0:9], len(m))
        attempt("write to read-only", lambda: m.write(b"x"))
        attempt("resize of read-only", lambda: m.resize(100))
        attempt("writable over read-only", lambda: mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_WRITE))
        attempt("too long", lambda: len(mmap.mmap(f.fileno(), 20000, prot=mmap.PROT_READ)))
        m.close()
        m = mmap.mmap(f.fileno(), PAGE, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE, offset=2 * PAGE)
        print(m[0:6], len(m))
        m.close()
        attempt("an unaligned offset", lambda: mmap.mmap(f.fileno(), PAGE, prot=mmap.PROT_READ, offset=1))
        attempt("an offset past the end", lambda: mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ, offset=1 << 30))
    attempt("a closed descriptor", lambda: mmap.mmap(999, PAGE))
    open(name, "wb").close()
    with open(name, "rb") as f:
        attempt("an empty file", lambda: mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ))


def anonymous():
    for flags in (mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS):
        m = mmap.mmap(-1, 10 * PAGE, flags=flags)
        for i in range(0, 10 * PAGE, 97):
            m[i] = i & 255
        print(sum(m[i] for i in range(10 * PAGE)))
        attempt("grow", lambda: m.resize(40 * PAGE))
        # Shared anonymous memory does not grow with its mapping: what lies behind its end is SIGBUS.
        print(len(m), m[97], m[(40 if flags & mmap.MAP_PRIVATE else 10) * PAGE - 1])
        attempt("shrink", lambda: m.resize(2 * PAGE))
        print(len(m), m[97])
        if hasattr(m, "madvise"):
            m.madvise(mmap.MADV_NORMAL)
            m.madvise(mmap.MADV_DONTNEED, PAGE, PAGE)
            print(sum(m[PAGE:]), m[97])
            attempt("unknown advice", lambda: m.madvise(9999))
        m.close()
    attempt("no length", lambda: mmap.mmap(-1, 0))
    attempt("negative length", lambda: mmap.mmap(-1, -1))
    attempt("more than there is", lambda: len(mmap.mmap(-1, 1 << 62)))
    many = [mmap.mmap(-1, PAGE * (1 + i % 5)) for i in range(500)]
    for i, m in enumerate(many):
        m[:] = bytes([i & 255]) * len(m)
    del many[::3]
    print(sum(m[PAGE - 1] for m in many))


def grows(name):
    with open(name, "w+b") as f:
        f.truncate(PAGE)
        m = mmap.mmap(f.fileno(), PAGE)
        for step in range(1, 30):
            m[-1] = step
            m.resize((step + 1) * PAGE)
        print(bytes(m[step * PAGE - 1] for step in range(1, 30)))
        m.close()
        f.seek(0, os.SEEK_END)
        print(f.tell())
        f.seek(PAGE - 1)
        print(f.read(2))


for part in (shared, private, grows):
    part("mmap_calls.data")
anonymous()
os.unlink("mmap_calls.data")
print("done")
