"""What `import rayunlearn` gives: unlearn(), audit() and load(), without a storage location to write to."""
