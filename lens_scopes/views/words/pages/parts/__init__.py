"""What several kinds of page share: blocks, memory, two prompts token by token, predicted against actual changes."""
