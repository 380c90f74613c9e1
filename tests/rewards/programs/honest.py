# ruff: noqa: E501
"""Honest programs of the standard library, each with what it prints. Their verdict must not depend on the level."""

FILES = {
    "import tempfile\nwith tempfile.TemporaryDirectory() as d:\n  open(d + '/x', 'w').write('a')\n  print(open(d + '/x').read())": "a",
    "import tempfile\nwith tempfile.NamedTemporaryFile('w+') as f:\n  f.write('ab'); f.seek(0); print(f.read())": "ab",
    "import tempfile\nwith tempfile.TemporaryFile() as f: print(f.write(b'abc'))": "3",
    "import tempfile\nwith tempfile.SpooledTemporaryFile(4) as f: print(f.write(b'abcdefgh'))": "8",
    "import os, tempfile\nf, p = tempfile.mkstemp(); os.write(f, b'a'); os.close(f); os.remove(p); print(os.path.exists(p))": "False",
    "import os; print(open(os.devnull, 'w').write('abc'))": "3",
    "print(repr(open('/dev/null').read()))": "''",
    "f = open('/dev/null', 'r+'); print(f.write('ab'))": "2",
    "import contextlib, os\nwith open(os.devnull, 'w') as f, contextlib.redirect_stdout(f): print('no')\nprint('yes')": "yes",
    "open('x', 'w').write('1\\n2'); print(sum(map(int, open('x'))))": "3",
    "import os; os.makedirs('a/b/c'); print(os.listdir('a'))": "['b']",
    "import os; os.mkdir('a'); os.rmdir('a'); print(os.listdir())": "[]",
    "import os; open('a', 'w'); os.rename('a', 'b'); print(os.listdir())": "['b']",
    "import os; open('a', 'w'); os.replace('a', 'b'); os.unlink('b'); print(os.listdir())": "[]",
    "import os; open('a', 'w').write('x'); os.symlink('a', 'b'); print(open('b').read())": "x",
    "import os; open('a', 'w').write('x'); os.link('a', 'b'); print(os.stat('a').st_nlink)": "2",
    "import os; open('a', 'w').write('xyz'); os.truncate('a', 1); print(open('a').read())": "x",
    "import shutil; open('a', 'w').write('x'); shutil.copy('a', 'b'); print(open('b').read())": "x",
    "import shutil; open('a', 'w').write('x'); shutil.copy2('a', 'b'); shutil.move('b', 'c'); print(open('c').read())": "x",
    "import os, shutil; os.makedirs('a/b'); shutil.copytree('a', 'c'); shutil.rmtree('a'); print(os.listdir())": "['c']",
    "import pathlib; p = pathlib.Path('a'); p.write_text('é'); print(p.read_text(), len(p.read_bytes()))": "é 2",
    "import sqlite3\nc = sqlite3.connect('db'); c.execute('create table t(a)'); c.execute('insert into t values(7)'); c.commit()\nprint(c.execute('select a from t').fetchone())": "(7,)",
    "import sqlite3\nc = sqlite3.connect(':memory:'); print(c.execute('select 1 + 1').fetchone())": "(2,)",
    "import json; json.dump([1], open('a', 'w')); print(json.load(open('a')))": "[1]",
    "import pickle; f = open('a', 'wb'); pickle.dump({1}, f); f.close(); print(pickle.load(open('a', 'rb')))": "{1}",
    "import csv; f = open('a', 'w'); csv.writer(f).writerow([1, 2]); f.close(); print(next(csv.reader(open('a'))))": "['1', '2']",
    "import gzip; gzip.open('a', 'wt').write('x'); print(len(gzip.open('a', 'rt').read()) < 2)": "True",
    "import zipfile\nwith zipfile.ZipFile('a', 'w') as z: z.writestr('b', 'c')\nprint(zipfile.ZipFile('a').namelist())": "['b']",
    "import tarfile, io\nwith tarfile.open('a', 'w') as t: t.addfile(tarfile.TarInfo('b'), io.BytesIO())\nprint(tarfile.open('a').getnames())": "['b']",
    "import shelve\nwith shelve.open('a') as s: s['k'] = 1\nwith shelve.open('a') as s: print(s['k'])": "1",
    "import fcntl; f = open('a', 'w'); fcntl.flock(f, fcntl.LOCK_EX); fcntl.lockf(f, fcntl.LOCK_UN); print('ok')": "ok",
    "import logging; logging.basicConfig(filename='log', level=20); logging.info('x'); print(open('log').read())": "INFO:root:x",
    "import fileinput; open('a', 'w').write('x\\n')\nfor line in fileinput.input('a'): print(line, end='')": "x",
    "import os; fd = os.open('a', os.O_RDWR | os.O_CREAT); os.write(fd, b'xy'); print(os.pread(fd, 1, 1))": "b'y'",
    "open('a', 'wb').write(bytes(8 << 20)); print('ok')": "ok",
    "for i in range(500): open(f'f{i}', 'w').write('x')\nimport os; print(len(os.listdir()))": "500",
    "import glob; open('a.t', 'w'); open('b.t', 'w'); print(sorted(glob.glob('*.t')))": "['a.t', 'b.t']",
    "import os; os.chmod(open('a', 'w').name, 0o644); print('ok')": "ok",
    "import os; open('a', 'w'); os.utime('a'); print(os.path.getsize('a'))": "0",
    "try: open('/etc/passwd')\nexcept OSError: print('no')": "no",
}
THREADS = {
    "import threading\nt = threading.Thread(target=print, args=('a',)); t.start(); t.join()": "a",
    "import threading\nl = threading.Lock(); n = [0]\ndef f():\n  for _ in range(99):\n    with l: n[0] += 1\n"
    "ts = [threading.Thread(target=f) for _ in range(8)]\nfor t in ts: t.start()\nfor t in ts: t.join()\nprint(n[0])": "792",
    "import threading\nthreading.Timer(0.01, print, ('late',)).start()": "late",
    "import threading\ne = threading.Event(); t = threading.Thread(target=e.set); t.start(); print(e.wait(9))": "True",
    "import threading, queue\nq = queue.Queue(); threading.Thread(target=q.put, args=(3,)).start(); print(q.get(timeout=9))": "3",
    "import threading\nb = threading.Barrier(3)\nfor _ in range(2): threading.Thread(target=b.wait).start()\nb.wait(); print('met')": "met",
    "import sys, threading\nsys.setrecursionlimit(10 ** 6); threading.stack_size(1 << 26)\ndef f(n): return f(n - 1) + 1 if n else 0\n"
    "t = threading.Thread(target=lambda: print(f(20000))); t.start(); t.join()": "20000",
    "from concurrent.futures import ThreadPoolExecutor as T\nwith T(8) as p: print(sum(p.map(lambda x: x * x, range(9))))": "204",
    "from concurrent.futures import ThreadPoolExecutor as T\nwith T() as p: print(p.submit(pow, 2, 9).result())": "512",
    "import asyncio\nasync def f(): await asyncio.sleep(0.01); return 5\nprint(asyncio.run(f()))": "5",
    "import asyncio\nasync def f(): return await asyncio.to_thread(len, 'abc')\nprint(asyncio.run(f()))": "3",
    "import asyncio\nasync def g(i): await asyncio.sleep(0); return i\nasync def f(): return sum(await asyncio.gather(*map(g, range(5))))\nprint(asyncio.run(f()))": "10",
    "import socket; a, b = socket.socketpair(); a.send(b'x'); print(b.recv(1))": "b'x'",
    "import os; r, w = os.pipe(); os.write(w, b'x'); print(os.read(r, 1))": "b'x'",
    "import select, os; r, w = os.pipe(); print(select.select([r], [w], [], 0)[1] == [w])": "True",
    "import signal; signal.signal(signal.SIGALRM, lambda *_: print('rang')); signal.alarm(1); signal.pause()": "rang",
    "import mmap; m = mmap.mmap(-1, 100); m[0] = 65; print(m[:1])": "b'A'",
    "import sys; print(sys.stdout.isatty(), sys.stdin.isatty())": "False False",
    "import threading\nts = [threading.Thread(target=threading.Event().wait, args=(9,), daemon=True) for _ in range(60)]\n"
    "n = 0\nfor t in ts:\n  try: t.start(); n += 1\n  except RuntimeError: break\nprint(20 < n < 40, flush=True)\nimport os; os._exit(0)": "True",
}  # fmt: skip
LIBRARY = {
    f"import {name}\nprint({name}.__name__)": name
    for name in (
        "array", "bisect", "calendar", "cmath", "collections", "copy", "dataclasses", "datetime", "decimal", "difflib",
        "enum", "fractions", "functools", "hashlib", "heapq", "inspect", "itertools", "locale", "operator", "platform",
        "random", "secrets", "statistics", "string", "struct", "textwrap", "timeit", "traceback", "typing", "unittest",
        "unicodedata", "uuid", "weakref", "xml", "zoneinfo", "pprint", "graphlib", "shlex", "sched", "ctypes", "select", "ssl", "subprocess", "urllib",
    )
}  # fmt: skip
HONEST = FILES | THREADS | LIBRARY
