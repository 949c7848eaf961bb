"""Emoji of animals: a small benchmark of real images that anyone can build, ``python -m datasets.emoji``.

**Classes** are the 104 kinds of animal among the emoji (``classes.csv``): those of Unicode's subcategories ``animal-*``
that all sources have, without second pictures of a kind (faces beside whole animals, guide dog, spouting whale, chicks
but one, ...), parts of animals (paw prints, feather, ...) and microbes.

**Images** are three freely licensed renderings of each: Noto Emoji, Twemoji and Fluent Emoji 3D. There are no others:
an augmented image is no further image.

**Semantics** are the sentence vector (all-MiniLM-L6-v2, 384 numbers) of an emoji's name and OpenMoji's tags.

**Split**. Classes in the order of the sha256 of ``emoji 1: <code>``: the first 26 are unseen, the next 20 are seen
classes that play the unseen ones in validation, 58 remain. All images of an unseen class test it. Of a seen class one
rendering is test, google, twitter and fluent in turn in that same order, and two are trainval, so that no rendering is
peculiar to training or to test. Hence T1 rests on 78 images: a difference of one image is 1.3 points.

The backbone was trained on ImageNet-1k, which holds some of these classes as photographs, unseen ones among them. This
tests a pipeline from images to boards; it is no proper split, and says nothing of results published on other data.
"""
