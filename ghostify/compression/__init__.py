"""One call from a network and a limit to the student: a target that it meets, or a drop that it keeps within."""
