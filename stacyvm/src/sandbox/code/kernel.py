# Runs code for stacyvm and keeps what it leaves: a line of JSON asks, lines of JSON
# answer. It needs Python 3.6 and nothing else.
import sys

# Files of the working directory are the code's to import, not this program's.
sys.path[:] = [path for path in sys.path if path]
import ast, base64, codecs, fcntl, io, json, linecache, os, select, signal, struct, termios, threading, traceback, types

asked = os.fdopen(os.dup(0), "rb")
answers = os.fdopen(os.dup(1), "wb")
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
writing = threading.Lock()
process = os.getpid()


def sound(value):
    """The same, with text that UTF-8 can say."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {sound(key): sound(one) for key, one in value.items()}
    return value


def answer(kind, **what):
    if os.getpid() != process:
        return  # a child that the code forked: who asked waits for its parent
    line = json.dumps(sound(dict(what, kind=kind))).encode() + b"\n"
    with writing:
        answers.write(line)
        answers.flush()


class Stream:
    """What arrives at a descriptor, from this process and from those that it starts."""

    def __init__(self, descriptor, kind):
        self.kind, self.handling = kind, threading.Lock()
        self.read, write = os.pipe()
        os.dup2(write, descriptor)
        os.close(write)
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        text = codecs.getincrementaldecoder("utf-8")("replace")
        ready = select.poll()
        ready.register(self.read, select.POLLIN)
        while True:
            ready.poll()
            # What is taken is answered before `drain` looks again.
            with self.handling:
                data = os.read(self.read, 65536)
                answer(self.kind, text=text.decode(data))

    def drain(self):
        """Returns when all that was written so far has been answered."""
        while True:
            with self.handling:
                left = struct.unpack("i", fcntl.ioctl(self.read, termios.FIONREAD, b"\0" * 4))[0]
            if not left:
                return
            threading.Event().wait(0.0002)


streams = Stream(1, "stdout"), Stream(2, "stderr")
sys.stdout, sys.stderr = (
    io.TextIOWrapper(open(descriptor, "wb", closefd=False), errors="replace", line_buffering=True)
    for descriptor in (1, 2)
)

MIMES = [
    ("_repr_html_", "text/html"),
    ("_repr_markdown_", "text/markdown"),
    ("_repr_svg_", "image/svg+xml"),
    ("_repr_png_", "image/png"),
    ("_repr_jpeg_", "image/jpeg"),
    ("_repr_pdf_", "application/pdf"),
    ("_repr_latex_", "text/latex"),
    ("_repr_json_", "application/json"),
    ("_repr_javascript_", "application/javascript"),
]


def described(value):
    """A value by media type: text as it is, bytes in base64, JSON as text."""
    data = {"text/plain": repr(value)}
    found = {}
    try:
        bundle = getattr(value, "_repr_mimebundle_", None)
        if callable(bundle) and not isinstance(value, type):
            found = bundle(include=None, exclude=None)
            found = dict(found[0] if isinstance(found, tuple) else found)
    except Exception:
        pass
    for method, mime in MIMES:
        try:
            make = getattr(value, method, None)
            if mime not in found and callable(make) and not isinstance(value, type):
                made = make()
                found[mime] = made[0] if isinstance(made, tuple) else made
        except Exception:
            pass
    if isinstance(value, (dict, list)):
        found.setdefault("application/json", value)
    for mime, made in found.items():
        if made is None:
            continue
        if mime == "application/json" and not isinstance(made, str):
            try:
                made = json.dumps(made)
            except (TypeError, ValueError):
                continue
        if isinstance(made, (bytes, bytearray)):
            made = base64.b64encode(made).decode()
        data[str(mime)] = str(made)
    return data


def display(*values, **_):
    """Gives values as results, in their rich forms."""
    for value in values:
        answer("result", data=described(value), main=False)


def show_figures():
    plots = sys.modules.get("matplotlib.pyplot")
    if plots is None:
        return
    for number in plots.get_fignums():
        figure, png = plots.figure(number), io.BytesIO()
        figure.savefig(png, format="png", bbox_inches="tight")
        data = {"text/plain": repr(figure), "image/png": base64.b64encode(png.getvalue()).decode()}
        answer("result", data=data, main=False)
    plots.close("all")


main = types.ModuleType("__main__")
main.__builtins__ = __builtins__
main.display = display
sys.modules["__main__"] = main
sys.argv = [""]
sys.path.insert(0, "")
event_loop = None


def run(code):
    global event_loop
    value = eval(code, main.__dict__)
    if code.co_flags & 0x80:  # a coroutine: it awaits at its top level
        import asyncio

        event_loop = event_loop or asyncio.new_event_loop()
        value = event_loop.run_until_complete(value)
    return value


def execute(text, number):
    name = "<cell %d>" % number
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    top_level_await = getattr(ast, "PyCF_ALLOW_TOP_LEVEL_AWAIT", 0)
    try:
        tree = compile(text, name, "exec", ast.PyCF_ONLY_AST | top_level_await)
        last = None
        if tree.body and isinstance(tree.body[-1], ast.Expr):
            last = ast.Expression(tree.body.pop().value)
        run(compile(tree, name, "exec", top_level_await))
        if last is not None:
            value = run(compile(last, name, "eval", top_level_await))
            main.__dict__["_"] = value
            if value is not None:
                answer("result", data=described(value), main=True)
        show_figures()
    except BaseException as error:
        # The frames above the cell are this file's.
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_code.co_filename != name:
            frames = frames.tb_next
        try:
            value = str(error)
        except Exception:
            value = "<exception str() failed>"
        told = traceback.format_exception(type(error), error, frames)
        answer("error", name=type(error).__name__, value=value, traceback="".join(told))


def interrupted(*_):
    raise KeyboardInterrupt


number = 0
while True:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    line = asked.readline()
    if not line:
        break
    number += 1
    try:
        signal.signal(signal.SIGINT, interrupted)
        execute(json.loads(line.decode())["code"], number)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        answer("error", name="KeyboardInterrupt", value="", traceback="KeyboardInterrupt\n")
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass
    if os.getpid() != process:
        os._exit(0)  # it has no more to do: what is asked is its parent's
    for stream in streams:
        stream.drain()
    answer("end", count=number)
