"""Counts checks and prints their failures."""


class Checks:
    def __init__(self):
        self.passed = self.failed = 0

    def add(self, name, complaints):
        """A check passes if there are no complaints."""
        complaints = list(complaints)
        self.passed, self.failed = self.passed + (not complaints), self.failed + bool(complaints)
        print(f"{'FAILED' if complaints else 'ok':8}{name}", flush=True)
        for complaint in complaints[:10]:
            print(f"        {complaint}", flush=True)

    def end(self, directory, remove):
        """Prints the totals and returns the exit status. The data directory is removed unless a check failed."""
        if self.failed:
            print(f"the data is kept in {directory}")
        else:
            remove(directory)
        print(f"{self.passed} passed, {self.failed} failed")
        return 1 if self.failed else 0
