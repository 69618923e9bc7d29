"""The Ray engine: clients on the CPUs of many machines. `engine` deals out tasks, `actor` works on them, `cluster` finds Ray."""
