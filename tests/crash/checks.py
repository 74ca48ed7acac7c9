"""Counts checks, and says what failed."""


class Checks:
    def __init__(self):
        self.passed = self.failed = 0

    def add(self, name, complaints):
        """A check passes where there are no complaints."""
        complaints = list(complaints)
        self.passed, self.failed = self.passed + (not complaints), self.failed + bool(complaints)
        print(f"{'FAILED' if complaints else 'ok':8}{name}", flush=True)
        for complaint in complaints[:10]:
            print(f"        {complaint}", flush=True)

    def end(self, directory, remove):
        """The last line; the exit status. What failed keeps its data."""
        if self.failed:
            print(f"the data stays: {directory}")
        else:
            remove(directory)
        print(f"{self.passed} passed, {self.failed} failed")
        return 1 if self.failed else 0
