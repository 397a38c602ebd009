"""The words, colours and number formats that every view shares."""
