"""What is asked, as text: values, forms, options and lines."""
