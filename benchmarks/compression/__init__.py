"""One call, on the promises that it makes."""
