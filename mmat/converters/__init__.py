from .learn_to_pay_attention import convert_learn_to_pay_attention

__all__ = ['convert_learn_to_pay_attention']
