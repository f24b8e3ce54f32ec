"""What a conversion did, as a record that is written, read and rebuilt."""
